"""Pictures of where a classifier's answer comes from, and of the classes of pixels."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.classifier import Classifier
from experiments.runtime.figures import picture as png
from resjax.analysis import grad_cam, integrated_gradients, occlusion
from resjax.errors import printable

Method = Literal["grad_cam", "occlusion", "integrated_gradients"]
TITLES = {
    "grad_cam": "Grad-CAM",
    "occlusion": "probability lost where hidden",
    "integrated_gradients": "integrated gradients",
}
_SQUARES, _STEPS = 14, 32  # squares along a side, and points of the integral
_SMALLEST = 256  # pixels of a picture that is drawn
_BRIGHTEST = 99.5  # percentile: a single pixel shall not make all others dark


@dataclasses.dataclass(frozen=True, eq=False)
class Explainer:
    """(uint8 pictures [N, H, W, 3] that a network saw, classes [N]) -> maps [N, H, W], float32, the higher the more."""

    classifier: Classifier
    method: Method
    batch_size: int

    def __call__(self, pictures: np.ndarray, classes: np.ndarray) -> np.ndarray:
        missing = self.batch_size - len(pictures)  # of one size: each other one would be compiled again
        pictures, classes = (np.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1)), "edge") for a in (pictures, classes))
        maps = self._maps(self.classifier.variables, pictures, classes)
        return np.asarray(maps)[: self.batch_size - missing]

    @functools.cached_property
    def _maps(self) -> Callable[..., jax.Array]:
        model, side = self.classifier.model, min(self.classifier.preprocess.size or (1, 1))

        @jax.jit
        def maps(variables: Any, pictures: jax.Array, classes: jax.Array) -> jax.Array:
            images = self.classifier.preprocess(pictures)
            match self.method:
                case "grad_cam":
                    found = grad_cam(model, variables, images, classes)
                    return jax.image.resize(found, images.shape[:3], "bilinear")
                case "occlusion":
                    stride = max(1, side // _SQUARES)
                    return occlusion(model, variables, images, classes, 3 * stride, stride)
            return jnp.abs(integrated_gradients(model, variables, images, classes, steps=_STEPS).sum(-1))

        return maps


def heat(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A picture, gray, under the colours of a map; uint8 [H, W, 3]. What is negative counts as nothing."""
    from matplotlib import colormaps

    values = np.maximum(values, 0)
    values = np.clip(values / max(np.percentile(values, _BRIGHTEST), 1e-12), 0, 1)
    colours = colormaps["inferno"](values)[..., :3] * 255
    opacity = 0.15 + 0.6 * values[..., None]
    gray = picture.mean(-1, keepdims=True)
    return np.clip((1 - opacity) * gray + opacity * colours, 0, 255).astype(np.uint8)


def draw_explanation(picture: np.ndarray, values: np.ndarray, answer: str, method: Method, title: str) -> bytes:
    """A PNG: what the network saw with its answer, and beside it the map over it; `title` names network and image."""
    titles = (printable(answer, 44), TITLES[method])

    def draw(figure):
        panels = (picture, heat(picture, values))
        for axes, panel, title in zip(figure.subplots(1, 2), panels, titles, strict=True):
            axes.imshow(panel, interpolation="nearest" if min(panel.shape[:2]) < _SMALLEST else "antialiased")
            axes.set_title(title, parse_math=False)
            axes.set_axis_off()

    return png(draw, (7.2, 4.1), printable(title, 90), dpi=110)
