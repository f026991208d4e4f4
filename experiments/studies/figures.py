"""Draws the figures of the studies."""

from typing import Any

from experiments.runtime.figures import Number, picture_and_numbers
from experiments.studies import Study


def render(study: Study, result: dict[str, Any], about: str = "") -> tuple[bytes, list[Number]]:
    """The figure of a study, as PNG, and the numbers of its marks.

    Args:
      study: the study.
      result: what it measured.
      about: names the network, its data and how many images.
    """
    return picture_and_numbers(lambda figure: study.draw(figure, result), study.size, study.title, about)
