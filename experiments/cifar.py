"""Trains and evaluates a classifier of small images: `python -m experiments.cifar --config wrn_28_10`."""

from collections.abc import Sequence

from experiments.configs.programs import CIFAR
from experiments.launch.start import start
from experiments.runtime.exit_codes import leave


def _train(*run) -> None:
    from experiments.launch.run import run as train
    from experiments.programs.cifar import Cifar

    train(Cifar(), *run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `experiments.runtime.exit_codes.exit_code`."""
    return start(CIFAR, _train, {}, arguments)


if __name__ == "__main__":
    leave(main())
