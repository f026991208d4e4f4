"""Images with masks: splits, what their labels are, limits, normalisation."""

import math

import jax
import jax.numpy as jnp

from experiments.configs.segmentation import SegmentationConfig
from resjax.data import MaskDataset, load_masks, mask_dataset_info
from resjax.data.augment.options import IGNORED
from resjax.errors import InputError

# Of ImageNet's images, on the 0-255 scale: what the trunks were trained with.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

_SHOWN = 6
_MUCH_IGNORED = 0.25
# Of a published set nearly no mask is background and ignored outlines alone.
_MANY_BLACK_AND_WHITE = 0.1
_BLACK_AND_WHITE = (
    "with the values 0 and 255 alone, of which 255 is ignored. If white is a class, --mask_values 0 255 takes it as the"
    " second of two, which a file classes.txt in --data_dir names, one a line"
)


def splits(config: SegmentationConfig) -> tuple[str, str]:
    """The splits to train and to test on."""
    own = mask_dataset_info(config.dataset, config.data_dir).splits
    return config.train_split or own[0], config.test_split or own[1]


def load_splits(config: SegmentationConfig, data_dir: str | None = None) -> tuple[MaskDataset, MaskDataset]:
    """What to train and to test on.

    Args:
      config: of a run.
      data_dir: the folder, if it is not the config's.

    Raises:
      InputError: see `resjax.data.load_masks`.
    """
    train_split, test_split = splits(config)
    return load_split(config, train_split, data_dir), load_split(config, test_split, data_dir)


def load_split(config: SegmentationConfig, split: str, data_dir: str | None = None) -> MaskDataset:
    """One split, see `load_splits`."""
    return load_masks(
        config.dataset, split, data_dir or config.data_dir, config.longer_side, mask_values=config.mask_values
    )


def check_options(config: SegmentationConfig) -> None:
    """Raises InputError for numbers that no segmentation run can have."""
    if not 0 <= config.ohem_threshold < 1:
        raise InputError(f"--ohem_threshold: expected a number in [0, 1), got {config.ohem_threshold}")
    for field in ("longer_side", "ohem_min_pixels", "head_factor", "eval_window"):
        if not getattr(config, field) >= 0:
            raise InputError(f"--{field}: expected a number >= 0, got {getattr(config, field)}")
    if not config.eval_scales or not all(scale > 0 for scale in config.eval_scales):
        raise InputError(f"--eval_scales: expected positive numbers, got {config.eval_scales}")


def check_pixels(config: SegmentationConfig, train_data: MaskDataset, test_data: MaskDataset) -> None:
    """Raises InputError where an epoch has more pixels than the confusion matrix can count, int32."""
    stride = config.model.get("output_stride") if config.coarse_loss else 1
    side = config.augmentation.crop
    height, width = (side, side) if side else train_data.masks.shape[1:]
    area = math.ceil(height / stride) * math.ceil(width / stride)
    for what, pixels in (("training", len(train_data.masks) * area), ("test", test_data.masks.size)):
        if pixels >= 2**31:
            raise InputError(
                f"{what}: {pixels:,} pixels an epoch, more than 2**31 - 1 cannot be counted; use a part of the images,"
                f" or smaller ones{' (--augmentation.crop)' if what == 'training' else ' (--longer_side)'}"
            )


def check_labels(config: SegmentationConfig, train_data: MaskDataset, test_data: MaskDataset) -> list[str]:
    """What a person should know of the labels before training, a line each.

    Raises:
      InputError: for a split in which fewer than two classes have a pixel: its mean IoU would be perfect whatever the
        network has learned.
    """
    info = mask_dataset_info(config.dataset, config.data_dir)
    # Masks of a folder with values that nobody has explained.
    is_plain = info.folders is not None and config.mask_values is None
    notes = []
    for split, role, data in zip(splits(config), ("training", "test"), (train_data, test_data), strict=True):
        counts = data.label_counts()
        labelled, ignored = counts[:, : info.num_classes].sum(0), int(counts[:, IGNORED].sum())
        what = f"{role} split {split!r}"
        black_and_white = (counts[:, 0] + counts[:, IGNORED] == counts.sum(1)) & (counts[:, [0, IGNORED]] > 0).all(1)
        there = [name for name, pixels in zip(info.class_names, labelled, strict=True) if pixels]
        missing = [name for name, pixels in zip(info.class_names, labelled, strict=True) if not pixels]
        if len(there) < 2:
            found = f"the only class with a pixel is {there[0]!r}" if there else "no class has a pixel"
            way_out = "check the masks, and the names of the classes"
            if is_plain and black_and_white.any():
                way_out = f"{black_and_white.sum()} of {len(counts)} masks are black and white, {_BLACK_AND_WHITE}"
            raise InputError(f"{what}: {found}, of {info.num_classes}; expected two or more; {way_out}")
        if missing:
            effect = "they cannot be learned" if role == "training" else "the mean IoU does not judge them"
            names = ", ".join(missing[:_SHOWN]) + (f", and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else "")
            if info.name == "voc" and not info.classes_from:
                effect += "; if these are not your classes, name yours in a file classes.txt in --data_dir, one a line"
            notes.append(f"{what}: no pixel of {len(missing)} of {info.num_classes} classes ({names}): {effect}")
        if ignored >= _MUCH_IGNORED * counts.sum():
            notes.append(f"{what}: {100 * ignored / counts.sum():.0f} % of the pixels are ignored (label {IGNORED})")
        if is_plain and black_and_white.mean() >= _MANY_BLACK_AND_WHITE:
            masks = f"{black_and_white.sum()} of {len(counts)} masks"
            notes.append(f"{what}: {masks} are black and white, {_BLACK_AND_WHITE}")
    repeated = len(set(train_data.image_digests()) & set(test_data.image_digests()))
    if repeated:
        notes.append(f"{repeated} of {len(test_data.images)} test images are training images, too")
    return notes


def normalize(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """uint8 images [N, H, W, 3] to float32; zero, the mean colour, behind the `sizes` [N, 2] of each."""
    normal = (images.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(STD)
    rows, columns = (jnp.arange(size) < sizes[:, axis, None] for axis, size in enumerate(images.shape[1:3]))
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], normal, 0)
