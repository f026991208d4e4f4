"""The engine that trains a task in a workdir."""
