"""The training commands: what each adds to `experiments.launch.run`."""
