"""Faults injected into real training runs, each followed by a resume: `python -m tests.faults --faults 1000`."""
