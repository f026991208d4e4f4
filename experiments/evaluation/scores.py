"""The numbers of a classifier's outputs: errors with their intervals, calibration, and a table of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from resjax.analysis import Calibration, calibration, fit_temperature, negative_log_likelihoods

_TOP, _DRAWS, _QUANTILES = 5, 1000, (0.025, 0.975)


def scores(logits: np.ndarray, labels: np.ndarray, whole: bool = True) -> dict[str, Any]:
    """Error and loss; of `whole` evaluations also their bootstrap intervals (95 %) and the calibration error.

    Args:
      logits: [N, K].
      labels: int [N].
      whole: whether to compute intervals and calibration.

    Returns:
      {"errors", "test_images", "test_error", "test_loss"}; where there are more than five classes "test_top5_error";
      "test_error_interval", "test_top5_error_interval", "test_loss_interval", "test_calibration_error". Errors in
      percent. Images are drawn with replacement; of an error the quantiles of all such draws are the binomial
      distribution's.
    """
    images = len(labels)
    errors = int((logits.argmax(-1) != labels).sum())
    losses = negative_log_likelihoods(logits, labels)
    result = {
        "errors": errors,
        "test_images": images,
        "test_error": 100 * errors / images,
        "test_loss": float(losses.mean()),
    }
    counts = {"test_error": errors}
    if logits.shape[-1] > _TOP:
        best = np.argpartition(-logits, _TOP, axis=-1)[:, :_TOP]
        counts["test_top5_error"] = int((best != labels[:, None]).all(-1).sum())
        result["test_top5_error"] = 100 * counts["test_top5_error"] / images
    if whole:
        from scipy.stats import binom  # it takes as long to import as JAX

        for name, count in counts.items():
            result[f"{name}_interval"] = (100 / images * binom.ppf(_QUANTILES, images, count / images)).tolist()
        rng = np.random.default_rng(0)
        means = [losses[rng.integers(images, size=images)].mean() for _ in range(_DRAWS)]
        result["test_loss_interval"] = np.quantile(means, _QUANTILES).tolist()
        result["test_calibration_error"] = 100 * calibration(logits, labels).error
    return result


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `scores` says of several parts, as of one, without intervals and calibration."""
    errors, images = (sum(part[key] for part in parts) for key in ("errors", "test_images"))
    result = {"errors": errors, "test_images": images, "test_error": 100 * errors / images}
    for key in ("test_loss", "test_top5_error"):
        if key in parts[0]:
            result[key] = sum(part[key] * part["test_images"] for part in parts) / images
    return result


def temperature_scaling(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], Calibration, Calibration]:
    """What dividing the logits by one number gives: fitted to a random half of the images, measured on the others.

    Args:
      logits: [N, K], of two images or more.
      labels: int [N].

    Returns:
      {"temperature", "images", "loss", "scaled_loss", "calibration_error", "scaled_calibration_error"}, the errors in
      percent, and the calibration before and after.
    """
    fitted, measured = np.split(np.random.default_rng(0).permutation(len(labels)), [len(labels) // 2])
    temperature = fit_temperature(logits[fitted], labels[fitted])
    result = {"temperature": temperature, "images": len(measured)}
    found = []
    for prefix, scale in (("", 1.0), ("scaled_", temperature)):
        scaled = logits[measured] / scale
        found.append(calibration(scaled, labels[measured]))
        result[f"{prefix}loss"] = float(negative_log_likelihoods(scaled, labels[measured]).mean())
        result[f"{prefix}calibration_error"] = 100 * found[-1].error
    return result, *found


def class_table(confusion: np.ndarray, class_names: Sequence[str], unit: str = "images") -> list[dict[str, Any]]:
    """A row for each class, of pixels with the intersection over union.

    Args:
      confusion: by true class (row) and predicted class (column), int [K, K].
      class_names: K names.
      unit: what is counted.

    Returns:
      {"class", `unit`, "error", "precision" in percent, of pixels "iou", None where nothing is divided;
      "mostly_taken_for": the class that most of them are mistaken for, or None}.
    """

    def percent(part, of):
        return 100 * float(part) / float(of) if of else None

    rows = []
    for i, name in enumerate(class_names):
        right, there, said = confusion[i, i], confusion[i].sum(), confusion[:, i].sum()
        mistaken = confusion[i].copy()
        mistaken[i] = 0
        rows.append(
            {
                "class": name,
                unit: int(there),
                "error": percent(there - right, there),
                "precision": percent(right, said),
                **({"iou": percent(right, there + said - right)} if unit == "pixels" else {}),
                "mostly_taken_for": class_names[int(mistaken.argmax())] if mistaken.any() else None,
            }
        )
    return rows


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images by true class (row) and predicted class (column), int64 [classes, classes]."""
    return np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)
