"""What a name of weights stands for: a folder, a network that comes with the library, a repository, a file to load."""

import dataclasses
import fnmatch
import os
import pathlib
from typing import Any

from resjax.errors import did_you_mean, printable
from resjax.interop import hub, timm_weights, torchvision_weights
from resjax.models.registry import familiar_name

SHIPPED = pathlib.Path(__file__).parents[1] / "weights"


@dataclasses.dataclass(frozen=True)
class TimmRepository:
    """Weights in timm's format, of a repository at a commit."""

    repo: str
    commit: str
    config: dict[str, Any]

    def about(self) -> dict[str, Any]:
        return timm_weights.about_of(self.config, f"{self.repo}@{self.commit[:12]}")

    def load(self, overrides: dict[str, Any]) -> Any:
        return timm_weights.load(self.repo, self.commit, self.config, overrides)


@dataclasses.dataclass(frozen=True)
class TorchvisionFile:
    """Weights of torchvision."""

    name: str

    def about(self) -> dict[str, Any]:
        return torchvision_weights.about_of(self.name)

    def load(self, overrides: dict[str, Any]) -> Any:
        return torchvision_weights.load(self.name, overrides)


def list_pretrained(pattern: str | None = None) -> list[str]:
    """Sorted names of weights for `from_pretrained`.

    Args:
      pattern: shell wildcards over all names, e.g. "timm/resnet50*" or "torchvision/*": those of timm and torchvision
        that our networks take, and that are downloaded when they are asked for. None lists the networks that come with
        the library.

    Example:
      >>> "resnet_20-cifar10" in resjax.list_pretrained()
      True
      >>> resjax.list_pretrained("timm/densenet121*")
      ['timm/densenet121.ra_in1k', 'timm/densenet121.tv_in1k']
    """
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []
    if pattern is None:
        return shipped
    names = [*shipped, *timm_weights.published(), *torchvision_weights.published()]
    return sorted(fnmatch.filter(names, pattern))


def resolve(name: str | os.PathLike[str]) -> pathlib.Path | TimmRepository | TorchvisionFile:
    """What `name` stands for: the directory of our format that holds it, or weights of another library.

    What exists here goes first; a name in a folder that exists here is of that folder, unless it has a revision. A
    repository is asked for its config.json.

    Raises:
      InputError: for a repository that cannot be reached, or is neither of resjax nor of timm.
    """
    path, text = pathlib.Path(name), os.fspath(name)
    if os.path.exists(path):
        return path
    if (shipped := _shipped(text)) is not None:
        return SHIPPED / shipped
    if text.startswith(torchvision_weights.PREFIX) or torchvision_weights.PREFIX + text in (
        torchvision_weights.published()
    ):
        return TorchvisionFile(torchvision_weights.PREFIX + text.removeprefix(torchvision_weights.PREFIX))
    is_of_timm = f"timm/{text.partition('@')[0]}" in timm_weights.published()
    repository = hub.repository(f"timm/{text}" if is_of_timm else text)
    if repository is None or isinstance(name, pathlib.PurePath):
        return path
    repo, revision = repository
    if revision is None and not is_of_timm and path.parent.is_dir():
        return path
    file = hub.fetch(repo, revision, hub.CONFIG_FILE)
    config = timm_weights.read_config(file)
    if "architecture" in config:
        return TimmRepository(repo, file.parent.name, config)
    hub.fetch(repo, file.parent.name, hub.WEIGHTS_FILE)
    return file.parent


def _shipped(name: str) -> str | None:
    """The name of weights that come with the library, for the network also as other libraries write it."""
    names = list_pretrained()
    network, _, data = name.rpartition("-")
    familiar = f"{familiar_name(network)}-{data.lower()}"
    return next((known for known in (name, familiar) if known in names), None)


def nearest(name: str | os.PathLike[str]) -> str:
    """What else `name` may have meant, for an error."""
    text, names = str(name), list_pretrained()
    if network := familiar_name(text):
        plain = text.replace("-", "_").lower()
        others = list_pretrained(f"*/{plain}.*")
        weights = [known for known in names if known.startswith(f"{network}-")] + others[:3] + others[-1:]
        more = f" (all {len(others)}: resjax.list_pretrained('*/{plain}.*'))" if len(others) > 4 else ""
        said = f"; {printable(text)} names a network, {network}, not trained weights"
        return said + (f"; of it there are {', '.join(dict.fromkeys(weights))}{more}" if weights else "")
    known = did_you_mean(text, [*names, *list_pretrained("t*/*")])
    return f", or a name of resjax.list_pretrained(): {', '.join(names)}{known}" if names else ""
