"""Every format that is read here, by its name: a module for each kind of input."""

from tests.fuzz.formats import arrays, commands, images, published, runs, weights

FORMATS = {
    **published.FORMATS,
    **images.FORMATS,
    **arrays.FORMATS,
    **weights.FORMATS,
    **runs.FORMATS,
    **commands.FORMATS,
}
