"""Process-level code: JAX set-up, machine, several processes, signals, exit codes, files."""
