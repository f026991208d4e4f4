"""Convolutions that a network may meet, and NumPy's value and gradients of them, in float64."""

import dataclasses

import numpy as np
from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Shapes of one convolution. `channels` are those of a group, in and out."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    strides: int
    padding: tuple[int, int]
    channels: tuple[int, int]
    dilation: int = 1
    groups: int = 1
    images: int = 2

    def __str__(self) -> str:
        shapes = ["x".join(map(str, pair)) for pair in (self.image, self.kernel, self.padding, self.channels)]
        numbers = f"-stride{self.strides}-dilation{self.dilation}-groups{self.groups}-images{self.images}"
        return "image{}-kernel{}-pad{}-channels{}".format(*shapes) + numbers

    @property
    def fits(self) -> bool:
        """Whether there is an output pixel."""
        extents = [self.dilation * (k - 1) + 1 for k in self.kernel]
        return all(n + 2 * p >= e for n, p, e in zip(self.image, self.padding, extents, strict=True))

    def draw(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random x [N, H, W, C_in] and kernel [kh, kw, C_in / groups, C_out], float64."""
        rng, (inputs, outputs) = np.random.default_rng(seed), self.channels
        x = rng.normal(size=(self.images, *self.image, self.groups * inputs))
        return x, rng.normal(size=(*self.kernel, inputs, self.groups * outputs))

    def reference(self, x: np.ndarray, kernel: np.ndarray):
        """Value, and the function from its cotangent to those of x and kernel: one product per tap of the kernel."""
        (top, left), s = self.padding, self.strides
        padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
        extents = [self.dilation * (k - 1) + 1 for k in self.kernel]
        height, width = ((n - e) // s + 1 for n, e in zip(padded.shape[1:3], extents, strict=True))
        grouped = padded.reshape(*padded.shape[:3], self.groups, -1)
        weights = kernel.reshape(*kernel.shape[:3], self.groups, -1)
        views = {
            tap: np.s_[:, i : i + (height - 1) * s + 1 : s, j : j + (width - 1) * s + 1 : s]
            for tap in np.ndindex(self.kernel)
            for i, j in [(self.dilation * tap[0], self.dilation * tap[1])]
        }
        product = lambda signature, a, b: np.einsum(signature, a, b, optimize=True)  # noqa: E731
        value = sum(product("nhwgi,igo->nhwgo", grouped[view], weights[tap]) for tap, view in views.items())

        def pullback(dy):
            dy = dy.reshape(value.shape)
            dx, dkernel = np.zeros_like(grouped), np.zeros_like(weights)
            for tap, view in views.items():
                dx[view] += product("nhwgo,igo->nhwgi", dy, weights[tap])
                dkernel[tap] = product("nhwgi,nhwgo->igo", grouped[view], dy)
            dx = dx.reshape(padded.shape)[:, top : top + x.shape[1], left : left + x.shape[2]]
            return dx, dkernel.reshape(kernel.shape)

        return value.reshape(*value.shape[:3], -1), pullback


def convolutions(images=(1, 2, 3), channels=((1, 1), (3, 4), (4, 2)), groups=(1, 2, 3)) -> st.SearchStrategy:
    """Any parity of size, kernel and stride, with rows left over at the far border and taps in the padding alone."""
    pair = lambda values: st.tuples(*(st.sampled_from(values),) * 2)  # noqa: E731
    return st.builds(
        Convolution,
        image=pair((1, 2, 5, 6, 8, 11)),
        kernel=pair((1, 2, 3, 5, 7)),
        strides=st.sampled_from((1, 2, 3)),
        padding=pair((0, 1, 2, 3)),
        channels=st.sampled_from(channels),
        dilation=st.sampled_from((1, 1, 2, 3)),
        groups=st.sampled_from(groups),
        images=st.sampled_from(images),
    ).filter(lambda case: case.fits)


def assert_close(got, expected, tolerance: float) -> None:
    """Value and both gradients, element by element, relative to the largest of each array."""
    for name, ours, theirs in zip(("value", "dx", "dkernel")[: len(expected)], got, expected, strict=True):
        ours = np.asarray(ours, np.float64)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(np.abs(theirs).max(), 1), err_msg=name)
