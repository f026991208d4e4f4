"""Released versions of JAX that, by published reports, compute wrongly or crash: the fault, its platform, its report.

The first entries affect every user of a version on a platform: `pyproject.toml` excludes them. Entries for certain
devices are listed and reported, but do not exclude the version for other devices.
"""

from typing import NamedTuple

import jax
import jaxlib


class KnownIssue(NamedTuple):
    """A fault of released versions.

    Attributes:
      versions: of jaxlib, exactly.
      platform: "cpu", "gpu" or "tpu".
      reference: the published report.
      symptom: what a user sees.
      device_kinds: parts of `jax.Device.device_kind`, one of which the device has; () means every device.
    """

    versions: tuple[str, ...]
    platform: str
    reference: str
    symptom: str
    device_kinds: tuple[str, ...] = ()


KNOWN_ISSUES = (
    KnownIssue(
        ("0.10.2",),
        "cpu",
        "https://github.com/jax-ml/jax/issues/39103",
        "wrong results under jit: a sum over each of 32,769 small matrix-vector products is 1,065,369,600, not"
        " 1,073,741,824",
    ),
    KnownIssue(
        ("0.10.2",),
        "cpu",
        "https://github.com/jax-ml/jax/issues/39352",
        "jnp.arctan of 50 numbers or more is wrong on some processors",
    ),
    KnownIssue(
        ("0.10.2",),
        "cpu",
        "https://github.com/jax-ml/jax/issues/40412",
        "a sum of products over one of seven axes of which another has length 1 ends the process",
    ),
    KnownIssue(
        ("0.10.2", "0.11.0"),
        "cpu",
        "https://github.com/jax-ml/jax/issues/39257",
        "a product with a broadcast array of seven or more axes, summed over one, crashes or never ends",
    ),
    KnownIssue(
        ("0.11.0", "0.11.1"),
        "gpu",
        "https://github.com/jax-ml/jax/issues/40633",
        "operations outside jit give wrong values and NaN",
        ("RTX A6000",),
    ),
    KnownIssue(
        ("0.10.2", "0.11.0"),
        "gpu",
        "https://github.com/jax-ml/jax/issues/39486",
        "fused operations give wrong results on consumer Blackwell (sm_120)",
        ("RTX 50", "RTX PRO"),
    ),
)


def known_issues(version: str | None = None, platform: str | None = None, device_kind: str = "") -> list[KnownIssue]:
    """The known issues of a version of jaxlib on a platform; without arguments, those of the running process.

    Args:
      version: version of jaxlib; None: the running one.
      platform: "cpu", "gpu" or "tpu"; None: the platform of JAX's first device, which starts JAX.
      device_kind: `jax.Device.device_kind`; "" matches only the issues that affect every device.
    """
    if platform is None:
        device = jax.devices()[0]
        platform, device_kind = device.platform, device.device_kind
    version = version or jaxlib.__version__
    return [
        issue
        for issue in KNOWN_ISSUES
        if version in issue.versions
        and platform == issue.platform
        and (not issue.device_kinds or any(kind in device_kind for kind in issue.device_kinds))
    ]


def say_known_issues(version: str, platform: str) -> str | None:
    """One line on the issues that affect every device of a platform, with the way out; None if there are none."""
    issues = known_issues(version, platform)
    if not issues:
        return None
    first, *others = issues
    more = f" (and {', '.join(issue.reference.rsplit('/', 1)[1] for issue in others)})" if others else ""
    return (
        f"jaxlib {version} is known to be faulty on a {platform.upper()}: {first.symptom}; see {first.reference}{more}."
        f" Install another version: pip install 'jax!={version}' 'jaxlib!={version}'"
    )
