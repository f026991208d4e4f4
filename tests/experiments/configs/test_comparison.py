"""When a published number is shown beside a run, with what was changed, and when a difference to it is taken."""

import dataclasses
import typing

import pytest

from experiments.configs import cifar, imagenet, segmentation
from experiments.configs.base import OptimizerConfig
from experiments.configs.named import Comparison, compare
from resjax import InputError, StochasticDepth
from resjax.data import mask_dataset_info
from resjax.data.augment import Augmentation
from resjax.models.published import HE_2015, Paper, Published, PublishedResult
from resjax.models.published.cifar import CIFAR_NETWORKS
from resjax.models.published.imagenet import IMAGENET_NETWORKS

CONFIGS = cifar.CONFIGS | {f"imagenet {k}": v for k, v in imagenet.CONFIGS.items()}
CONFIGS |= {f"segmentation {k}": v for k, v in segmentation.CONFIGS.items()}


def _compare(name, changes, **images):
    named = CONFIGS[name]
    model = {key.removeprefix("model_"): value for key, value in changes.items() if key.startswith("model_")}
    others = {key: value for key, value in changes.items() if not key.startswith("model_")}
    config = dataclasses.replace(named.config, model=named.config.model.replace(**model), **others)
    return compare(named, config.identity(), **images)


# (recipe, what a run has otherwise, published number that is shown or None, the fields that are told).
CASES = [
    # Nothing, the seed, how it is run: like for like.
    ("resnet_20", {}, 8.75, []),
    ("resnet_20", {"seed": 3}, 8.75, []),
    ("resnet_20", {"workdir": "x", "eval_batch_size": 1, "scan": "on"}, 8.75, []),
    ("wrn_28_10", {"dataset": "cifar100"}, 19.25, []),
    ("segmentation resnet_38_a1_voc", {"pretrained": "a1.pth"}, 80.84, []),
    # The same network and test images, another recipe.
    ("resnet_20", {"epochs": 20}, 8.75, ["epochs"]),
    ("resnet_20", {"batch_size": 64}, 8.75, ["batch_size"]),
    ("resnet_20", {"dtype": "bfloat16"}, 8.75, ["dtype"]),
    ("resnet_20", {"label_smoothing": 0.1}, 8.75, ["label_smoothing"]),
    ("resnet_20", {"augmentation": Augmentation(4, "zero", cutmix=1.0)}, 8.75, ["augmentation.cutmix"]),
    ("resnet_20", {"optimizer": OptimizerConfig()}, 8.75, ["optimizer.momentum_form", "optimizer.decay"]),
    ("resnet_20", {"validation_images": 5000}, 8.75, ["validation_images"]),
    ("resnet_20", {"model_norm_scope": 32}, 8.75, ["model.norm_scope"]),
    ("resnet_20", {"model_kernel_init": "he_normal_fan_in"}, 8.75, ["model.kernel_init"]),
    ("imagenet resnet_50_he2015", {"eval_mode": "centre"}, 22.85, ["eval_mode"]),
    ("segmentation resnet_38_a1_voc", {"eval_flip": False}, 80.84, ["eval_flip"]),
    # Another network, or other test images.
    ("resnet_20", {"model_name": "preresnet_20"}, None, ["model.name"]),
    ("resnet_20", {"model_shortcut": "none"}, None, ["model.shortcut"]),
    (
        "resnet_110",
        {"model_stochastic_depth": StochasticDepth(0.5)},
        None,
        ["model.stochastic_depth.survival_probability"],
    ),
    ("wrn_28_10", {"model_dropout_rate": 0.3}, None, ["model.dropout_rate"]),
    ("resnet_20", {"dataset": "svhn_cropped"}, None, ["dataset"]),
    ("resnet_20", {"dataset": "cifar100"}, None, ["dataset"]),  # published for CIFAR-10 alone
    ("imagenet resnet_50", {"dataset": "folder"}, None, ["dataset"]),
    ("imagenet resnet_50", {"model_bottleneck_stride": "1x1"}, None, ["model.bottleneck_stride"]),
    ("segmentation resnet_38_a1_voc", {"dataset": "cityscapes"}, None, ["dataset"]),
    ("segmentation resnet_38_a1_voc", {"test_split": "train"}, None, ["test_split"]),
    ("segmentation resnet_38_a1_voc", {"test_split": "val"}, 80.84, []),  # the dataset's own
    ("segmentation resnet_38_a1_voc", {"mask_values": tuple(range(21))}, None, ["mask_values"]),
    ("segmentation resnet_38_a1_voc", {"model_output_stride": 4}, None, ["model.output_stride"]),
    # Nothing was published of the recipe.
    ("quickstart", {"epochs": 3}, None, ["epochs"]),
    ("imagenet quickstart", {}, None, []),
]


@pytest.mark.parametrize(("name", "changes", "value", "told"), CASES)
def test_one_rule_says_what_a_run_is_compared_with(name, changes, value, told):
    found = _compare(name, changes)
    assert (found.published.value if found.published else None) == value
    assert list(found.changes) == told
    assert found.is_like_for_like == (value is not None and not told)
    assert bool(found.label) == (value is not None)
    assert all(field in found.label for field in told) or value is None
    written = found.to_json()
    assert (written["published"] is None) == (value is None) and len(written["not_the_recipe"]) == len(told)


def test_a_part_of_the_training_images_is_another_recipe_and_one_of_the_test_images_another_measurement():
    whole = _compare("resnet_20", {}, train_images=50_000, test_images=10_000)
    assert whole.is_like_for_like
    fewer = _compare("resnet_20", {}, train_images=40_000, test_images=10_000)
    assert fewer.published.value == 8.75 and not fewer.is_like_for_like
    assert fewer.changes == {"training images": "40,000 of 50,000 training images"}
    assert "with changed training images" in fewer.label
    other = _compare("resnet_20", {}, train_images=50_000, test_images=9_000)
    assert other.published is None and other.changes == {"test images": "9,000 of 10,000 test images"}
    # Those of a recipe that holds validation images back, or takes the extra ones, are whole with fewer, and more.
    assert _compare("resnet_110_stochastic_depth", {}, train_images=45_000).is_like_for_like
    assert _compare("wrn_16_8_svhn", {}, train_images=604_388, test_images=26_032).is_like_for_like
    assert _compare("imagenet resnet_50", {}, train_images=1_281_167).is_like_for_like
    assert not _compare("imagenet resnet_50", {}, train_images=1_281_166).is_like_for_like
    assert _compare("imagenet resnet_50", {}, test_images=49_999).published is None
    voc = "segmentation resnet_38_a1_voc"
    assert _compare(voc, {}, train_images=10_582, test_images=1449).is_like_for_like
    assert _compare(voc, {}, train_images=10_582, test_images=5).published is None


def test_masks_of_a_persons_own_classes_are_not_compared_with_those_of_the_dataset_whose_layout_they_have():
    own = _compare("segmentation resnet_38_a1_voc", {}, class_names=("crack", "road"))
    assert own.published is None and own.changes == {
        "classes": "classes crack, road (recipe: background, aeroplane, bicycle, bird, ..)"
    }
    same = mask_dataset_info("voc").class_names
    assert _compare("segmentation resnet_38_a1_voc", {}, class_names=same).is_like_for_like
    # Photographs' class folders may be named as their owner likes: they are counted alone.
    assert _compare("imagenet resnet_50", {}, class_names=("a", "b")).is_like_for_like


def test_a_label_names_a_few_changes_and_counts_the_others():
    result = PublishedResult(8.75, dataset="cifar10", origin=HE_2015, place="table 6", aggregate="single")
    label = Comparison(result, {key: f"{key} 1 (recipe: 2)" for key in "abcdef"}).label
    assert label == "published 8.75 % (single run) (with changed a, b, c, d, 2 more)"
    assert Comparison(result).label == "published 8.75 % (single run)" and Comparison(None, {"a": "a 1"}).label == ""


def test_fields_of_published_numbers_have_the_values_that_there_are():
    kinds = typing.get_type_hints(Published)
    numbers = [result for named in CONFIGS.values() for result in named.to_compare().values() if result]
    numbers += [result for facts in (CIFAR_NETWORKS | IMAGENET_NETWORKS).values() for result in facts.results]
    assert len(numbers) > 400
    for result in numbers:
        for field in ("aggregate", "view", "epoch"):
            kind, value = kinds[field], getattr(result, field)
            known = [
                each for option in (typing.get_args(kind) or (kind,)) for each in typing.get_args(option) or (option,)
            ]
            assert value in known or (value is None and type(None) in known), result
        assert isinstance(result.origin, Paper) or result.origin.startswith(("github.com/", "torchvision")), result
        assert result.place and 0 < result.value < 100, result


def test_an_unknown_kind_of_optimizer_is_told_the_right_one():
    with pytest.raises(InputError, match="did you mean 'sgd'|kind of optimizer 'sgdd'"):
        OptimizerConfig(kind="sgdd")
