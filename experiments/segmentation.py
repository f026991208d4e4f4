"""Trains, evaluates and uses a segmentation network: `python -m experiments.segmentation --config quickstart`."""

from collections.abc import Sequence

from experiments.configs.programs import SEGMENTATION
from experiments.launch.start import start
from experiments.runtime.exit_codes import leave


def _train(*run) -> None:
    from experiments.launch.run import run as train
    from experiments.programs.segmentation import Segmentation

    train(Segmentation(), *run)


def _predict(*command) -> None:
    from experiments.evaluation.overlays import predict

    predict(*command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code, see `experiments.runtime.exit_codes.exit_code`."""
    return start(SEGMENTATION, _train, {"predict": ("RUN", _predict)}, arguments)


if __name__ == "__main__":
    leave(main())
