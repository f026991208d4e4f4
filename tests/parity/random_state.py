"""Random weights of PyTorch networks, and the distance of ours from them."""

import jax
import numpy as np

from tests.parity import twins

torch = twins.torch


def randomize(state_dict, seed=0):
    """Fills a network's parameters and statistics at a scale that keeps activations finite, whatever its depth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, array in state_dict.items():
            if array.ndim > 1:
                array.normal_(0, array[0].numel() ** -0.5, generator=generator)
            elif array.ndim == 1:
                positive = name.endswith(("running_var", "weight"))
                array.uniform_(0.5 if positive else -0.5, 1.5 if positive else 0.5, generator=generator)


def to_nchw(images, dtype=torch.float32):
    return torch.tensor(images.transpose(0, 3, 1, 2), dtype=dtype)


def assert_close(ours, theirs, tolerance):
    """Two trees of arrays, each array relative to its norm."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        error = np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))
        assert error < tolerance, (jax.tree_util.keystr(path), error)
