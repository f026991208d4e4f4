"""Draws the figures of the studies."""

from typing import Any

from experiments.runtime.figures import picture
from experiments.studies import Study


def render(study: Study, result: dict[str, Any], about: str = "") -> bytes:
    """The figure of a study, as PNG; `about` names the network, its data and how many images."""
    return picture(lambda figure: study.draw(figure, result), study.size, study.title, about)
