"""What a person runs: `python -m experiments.cifar --config wrn_28_10`."""
