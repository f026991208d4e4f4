"""The CPU's implementations of operators; the layers choose between them and XLA's own."""
