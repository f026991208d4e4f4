"""Trains and evaluates a classifier of photographs: `python -m experiments.imagenet --config resnet_50`."""

from collections.abc import Sequence

from experiments.configs.programs import IMAGENET
from experiments.launch.start import start
from experiments.runtime.exit_codes import leave


def _train(*run) -> None:
    from experiments.launch.run import run as train
    from experiments.programs.imagenet import Imagenet

    train(Imagenet(), *run)


def _evaluate(*command) -> None:
    from experiments.programs.imagenet import evaluate

    evaluate(*command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `experiments.runtime.exit_codes.exit_code`."""
    return start(IMAGENET, _train, {"evaluate": ("RUN|NAME|FILE", _evaluate)}, arguments)


if __name__ == "__main__":
    leave(main())
