"""Repositories of timm on the Hugging Face hub: which of its networks are ours, and what its config says of them."""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from resjax.data.formats.text_files import read_json
from resjax.errors import InputError, did_you_mean, printable
from resjax.interop.hub import CONFIG_FILE, WEIGHTS_FILE, fetch
from resjax.interop.torch_weights import load_torch_weights
from resjax.models import create_model

# What timm 1.0.31 has published, by architecture. fb_: Yalniz et al. 2019, arXiv 1905.00546; a1 .. d: Wightman et al.
# 2021, arXiv 2110.00476.
_FB = "fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k"
_TAGS = {
    "resnet18": f"a1_in1k a2_in1k a3_in1k {_FB} gluon_in1k tv_in1k",
    "resnet26": "bt_in1k",
    "resnet34": "a1_in1k a2_in1k a3_in1k bt_in1k gluon_in1k ra4_e3600_r224_in1k tv_in1k",
    "resnet50": "a1_in1k a1h_in1k a2_in1k a3_in1k am_in1k b1k_in1k b2k_in1k bamboo bt_in1k c1_in1k c2_in1k d_in1k"
    f" {_FB} gluon_in1k ra_in1k ram_in1k tv2_in1k tv_in1k",
    "resnet101": "a1_in1k a1h_in1k a2_in1k a3_in1k gluon_in1k tv2_in1k tv_in1k",
    "resnet152": "a1_in1k a1h_in1k a2_in1k a3_in1k gluon_in1k tv2_in1k tv_in1k",
    "resnext50_32x4d": f"a1_in1k a1h_in1k a2_in1k a3_in1k {_FB} gluon_in1k ra_in1k tv2_in1k tv_in1k",
    "resnext101_32x4d": f"{_FB} gluon_in1k",
    "resnext101_32x8d": f"{_FB} fb_wsl_ig1b_ft_in1k tv2_in1k tv_in1k",
    "resnext101_32x16d": f"{_FB} fb_wsl_ig1b_ft_in1k",
    "resnext101_32x32d": "fb_wsl_ig1b_ft_in1k",
    "resnext101_64x4d": "c1_in1k gluon_in1k tv_in1k",
    "wide_resnet50_2": "racm_in1k tv2_in1k tv_in1k",
    "wide_resnet101_2": "tv2_in1k tv_in1k",
    "densenet121": "ra_in1k tv_in1k",
    "densenet161": "tv_in1k",
    "densenet169": "tv_in1k",
    "densenet201": "tv_in1k",
}
# Arguments of timm's networks that change no layer in evaluation; any other is refused.
_HARMLESS = {
    "num_classes",
    "in_chans",
    "drop_rate",
    "drop_path_rate",
    "drop_block_rate",
    "zero_init_last",
    "global_pool",
}
_MOST_CLASSES = 1 << 20
_CLASSES_FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")


def published() -> list[str]:
    """The names, "timm/resnet50.a1_in1k" .., of timm's published weights that our networks take."""
    return [f"timm/{architecture}.{tag}" for architecture, tags in _TAGS.items() for tag in tags.split()]


def create(architecture: str, **overrides: Any) -> Any:
    """Our network of an architecture of timm's or torchvision's.

    Raises:
      InputError: for one that is none of ours, or whose layers differ from those of a similar name.
    """
    fields: dict[str, Any] = {}
    if architecture == "resnet26":  # ResNet-50's bottlenecks, two in each stage
        name, fields = "resnet_50", {"stage_sizes": (2, 2, 2, 2)}
    else:
        name = re.sub(r"^(resnet|resnext|densenet)(?=\d+(_\d+x\d+d)?$)", r"\1_", architecture)
        name = re.sub(r"^wide_resnet(50|101)_2$", r"wrn_\1_2", name)
    # "resnet_32" would be a network for CIFAR.
    if not re.fullmatch(
        r"resnet_(18|34|50|101|152|200)|resnext_(50|101)_\d+x\d+d|wrn_(50|101)_2|densenet_(121|161|169|201)", name
    ):
        raise InputError(
            f"timm's {printable(architecture)}: not one of the networks here, or with other layers (deep stems,"
            f" blurred pooling, attention){did_you_mean(architecture, _TAGS)}; resjax.list_pretrained('timm/*') lists"
            " what is read"
        )
    return create_model(name, **(fields | overrides))


def about_of(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a config.json of timm says of its weights, as `resjax.pretrained_info` gives it.

    Raises:
      InputError: for a config of layers or of a preprocessing that are not ours.
    """
    try:
        own = {**config, **config["pretrained_cfg"]}
        create(config["architecture"])
        _check_layers(config, own, source)
        about = {
            "model": config["architecture"],
            "weights": source,
            "mean": [255 * value for value in own["mean"]],
            "std": [255 * value for value in own["std"]],
            "size": list(own["input_size"][1:]),
            "crop": own.get("crop_pct", 0.875),
            "interpolation": own.get("interpolation", "bilinear"),
            "class_names": _class_names(own),
        }
        for theirs, ours in (("license", "license"), ("paper_ids", "paper"), ("origin_url", "origin")):
            if own.get(theirs):
                about[ours] = own[theirs]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{source}: {error}") from None
        said = f"{type(error).__name__}: {printable(error)}"
        raise InputError(f"{source}: {CONFIG_FILE} is none of timm's ({said})") from None
    return about


def _check_layers(config: Mapping[str, Any], own: Mapping[str, Any], source: str) -> None:
    """Raises InputError where a config says that layers differ from those that the architecture's name stands for."""
    arguments = dict(config.get("model_args") or {})
    other = [f"{key}={value!r}" for key, value in arguments.items() if key not in _HARMLESS and value is not None]
    pool = arguments.get("global_pool") or own.get("global_pool") or "avg"
    is_dense = str(config["architecture"]).startswith("densenet")
    stem = own.get("first_conv") or "conv1"
    other += [f"global_pool={pool!r}"] * (pool not in ("avg", "fast"))
    other += [f"first_conv={stem!r}"] * (stem != ("features.conv0" if is_dense else "conv1"))
    if other:
        raise InputError(
            f"layers of its own ({', '.join(map(printable, other))}), which {config['architecture']} here does not"
            " have: its weights would compute something else"
        )
    if own.get("crop_mode", "center") != "center":
        raise InputError(f"crop_mode {own['crop_mode']!r}: expected 'center'; normalise and crop its images yourself")


def _class_names(own: Mapping[str, Any]) -> list[str]:
    names, number = own.get("label_names"), own["num_classes"]
    if type(number) is not int or not 0 < number <= _MOST_CLASSES:
        raise ValueError(f"num_classes {printable(number)}")
    if names:
        names = [names[str(i)] if str(i) in names else names[i] for i in range(number)]
        described = own.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in names]
    if number == 1000 and "in1k" in str(own.get("tag", "")):
        return list(imagenet_classes())
    return [str(i) for i in range(number)]


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """English names of the classes of ImageNet-1k, in the order of their WordNet numbers."""
    return tuple(_CLASSES_FILE.read_text(encoding="utf-8").splitlines())


def load(repo: str, commit: str, config: Mapping[str, Any], overrides: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The network of a repository of timm's, and its variables."""
    model = create(config["architecture"], **({"num_classes": config["num_classes"]} | overrides))
    return model, load_torch_weights(model, fetch(repo, commit, WEIGHTS_FILE))


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """A config.json; raises InputError where it is no JSON object."""
    try:
        config = read_json(file)
    except InputError as error:
        raise InputError(f"{error}; download it again") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected a JSON object; download it again")
    return config
