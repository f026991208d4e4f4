"""Exact counts and published validation errors of the networks for ImageNet.

Counts include convolutions, BN scale and bias, and linear layers, for 1000 classes and one 224x224x3 image.
Errors are pairs of top-1 and top-5. If several are published, that of one central 224x224 crop comes first.
"""

from typing import Any

from resjax.models.published import (
    FB_TORCH,
    HE_2015,
    HE_2015_CODE,
    HE_2016,
    HUANG_2016_DENSE,
    HUANG_2016_DENSE_CODE,
    HUANG_2016_DEPTH,
    TORCHVISION,
    WU_2016_CODE,
    XIE_2016,
    ZAGORUYKO_2016,
    Paper,
    PublishedFacts,
    PublishedResult,
)

Results = tuple[PublishedResult, ...]
Errors = tuple[float, float | None]

_ONE_CROP: dict[str, Any] = {"view": "one_crop", "size": 224}
_TEN_CROPS: dict[str, Any] = {"view": "ten_crops", "size": 224}
# The error of a released trained network.
_RELEASED = _ONE_CROP | {"aggregate": "single"}
# The errors of He et al. for bottlenecks, and the lower counts of multiply-adds, belong to this option.
_V1 = {"bottleneck_stride": "1x1"}


def photographs(
    origin: Paper | str, place: str, top1: float, top5: float | None = None, **protocol: Any
) -> PublishedResult:
    """An error on ImageNet's validation images."""
    return PublishedResult(top1, top5, dataset="imagenet2012", origin=origin, place=place, **protocol)


def _result(origin: Paper | str, place: str, errors: Errors, **protocol: Any) -> Results:
    return (photographs(origin, place, *errors, **protocol),)


def _he_2015(table: int, errors: Errors, **options: str) -> Results:
    view: dict[str, Any] = {"view": "multi_scale"} if table == 4 else _TEN_CROPS
    return _result(HE_2015, f"table {table}", errors, **view, options=options)


def _he_v1(ten_crops: Errors, multi_scale: Errors, one_crop: Errors) -> Results:
    """Bottlenecks as published: tables 3 and 4 of the paper, and the released Caffe networks."""
    release = _result(HE_2015_CODE, "README", one_crop, **_RELEASED, options=_V1)
    return release + _he_2015(3, ten_crops, **_V1) + _he_2015(4, multi_scale, **_V1)


def _he_2016(errors: Errors, **protocol: Any) -> Results:
    return _result(HE_2016, "table 5", errors, view="one_crop", size=320, **{"options": _V1} | protocol)


def _fb(one_crop: Errors, ten_crops: Errors, note: str = "") -> Results:
    source = (FB_TORCH, "pretrained networks")
    central = _result(*source, one_crop, **_RELEASED, note=note)
    return central + _result(*source, ten_crops, **_RELEASED | _TEN_CROPS, note=note)


def _torchvision(top1: float, top5: float) -> Results:
    return _result(TORCHVISION, "weights IMAGENET1K_V1", (top1, top5), **_RELEASED)


def _wide(table: int, top1: float, top5: float) -> Results:
    return _result(ZAGORUYKO_2016, f"table {table}", (top1, top5), view="one_crop")


def _xie(table: int, top1: float, top5: float | None = None, size: int = 224) -> Results:
    return _result(XIE_2016, f"table {table}", (top1, top5), view="one_crop", size=size)


def _dense(one_crop: Errors, ten_crops: Errors) -> Results:
    source = (HUANG_2016_DENSE, "table 3")
    return _result(*source, one_crop, **_ONE_CROP) + _result(*source, ten_crops, **_TEN_CROPS)


def _dense_release(top1: float) -> Results:
    return _result(HUANG_2016_DENSE_CODE, "README", (top1, None), **_RELEASED)


def _wu(top1: float, top5: float, note: str = "") -> Results:
    return _result(WU_2016_CODE, "README", (top1, top5), **_RELEASED | {"size": 320}, note=note)


_CONSTANT_DEPTH = tuple(
    photographs(HUANG_2016_DEPTH, "section 4", error, batch_size=128, epochs=epochs, note="constant depth")
    for epochs, error in ((90, 23.06), (120, 21.78))
)

IMAGENET_NETWORKS = {
    "plain_18": PublishedFacts(11_515_688, 1_794_805_760, _he_2015(2, (27.94, None))),
    "plain_34": PublishedFacts(21_623_848, 3_644_493_824, _he_2015(3, (28.54, 10.02))),
    "resnet_18": PublishedFacts(
        11_689_512,
        1_814_073_344,
        _fb((30.43, 10.76), (28.22, 9.42)) + _torchvision(30.242, 10.922) + _he_2015(2, (27.88, None), shortcut="A"),
    ),
    "resnet_34": PublishedFacts(
        21_797_672,
        3_663_761_408,
        _fb((26.73, 8.74), (24.76, 7.35))
        + _torchvision(26.686, 8.580)
        + _he_2015(3, (24.52, 7.46))
        + _he_2015(4, (21.84, 5.71)),
    ),
    "resnet_50": PublishedFacts(
        25_557_032,
        4_089_184_256,
        _xie(3, 23.9)
        + _torchvision(23.870, 7.138)
        + _fb((24.01, 7.02), (22.24, 6.08), "BN after the addition")
        + _he_v1((22.85, 6.71), (20.74, 5.25), (24.7, 7.8)),
    ),
    "resnet_101": PublishedFacts(
        44_549_160,
        7_801_405_440,
        _fb((22.44, 6.21), (21.08, 5.35))
        + _xie(3, 22.0, 6.0)
        + _torchvision(22.626, 6.454)
        + _he_v1((21.75, 6.05), (19.87, 4.60), (23.6, 7.1)),
    ),
    "resnet_152": PublishedFacts(
        60_192_808,
        11_513_626_624,
        _fb((22.16, 6.16), (20.69, 5.21))
        + _torchvision(21.688, 5.954)
        + _CONSTANT_DEPTH
        + _he_v1((21.43, 5.71), (19.38, 4.49), (23.0, 6.7))
        + _he_2016((21.3, 5.5)),
    ),
    "resnet_200": PublishedFacts(64_673_832, 15_007_481_856, _he_2016((21.8, 6.0))),
    "preresnet_152": PublishedFacts(60_185_128, 11_513_626_624, _he_2016((21.1, 5.5))),
    "preresnet_200": PublishedFacts(
        64_666_152,
        15_007_481_856,
        _fb((21.66, 5.79), (20.15, 4.93))
        + _he_2016((20.1, 4.8), options={}, note="aspect ratios augmented")
        + _he_2016((20.7, 5.3)),
    ),
    "wrn_imagenet_18_1": PublishedFacts(11_689_512, 1_814_073_344, _wide(7, 30.4, 10.93)),
    "wrn_imagenet_18_1.5": PublishedFacts(25_875_816, 3_866_327_040, _wide(7, 27.06, 9.0)),
    "wrn_imagenet_18_2": PublishedFacts(45_618_216, 6_695_706_624, _wide(7, 25.58, 8.06)),
    "wrn_imagenet_18_3": PublishedFacts(101_783_976, 14_724_378_624, _wide(7, 24.06, 7.33)),
    "wrn_imagenet_34_1": PublishedFacts(21_797_672, 3_663_761_408, _wide(7, 26.77, 8.67)),
    "wrn_imagenet_34_1.5": PublishedFacts(48_613_608, 8_028_125_184, _wide(7, 24.5, 7.58)),
    "wrn_imagenet_34_2": PublishedFacts(86_036_008, 14_094_458_880, _wide(7, 23.39, 7.00)),
    # Table 9 and the authors' README print 5.79 as its top-5 error, the same number as for ResNet-200 in table 9.
    "wrn_50_2": PublishedFacts(68_883_240, 11_398_021_120, _wide(8, 21.9, 6.03) + _torchvision(21.532, 5.914)),
    "wrn_101_2": PublishedFacts(126_886_696, 22_753_050_624, _torchvision(21.152, 5.716)),
    "resnext_50_2x40d": PublishedFacts(25_425_000, 4_124_508_160, _xie(3, 23.0)),
    "resnext_50_4x24d": PublishedFacts(25_292_968, 4_159_832_064, _xie(3, 22.6)),
    "resnext_50_8x14d": PublishedFacts(25_603_016, 4_267_409_408, _xie(3, 22.3)),
    "resnext_50_32x4d": PublishedFacts(25_028_904, 4_230_479_872, _xie(3, 22.2) + _torchvision(22.382, 6.302)),
    "resnext_101_2x40d": PublishedFacts(44_456_296, 7_843_553_280, _xie(3, 21.7)),
    "resnext_101_4x24d": PublishedFacts(44_363_432, 7_885_701_120, _xie(3, 21.4)),
    "resnext_101_8x14d": PublishedFacts(45_104_328, 8_076_871_680, _xie(3, 21.3)),
    "resnext_101_32x4d": PublishedFacts(44_177_704, 7_969_996_800, _xie(3, 21.2, 5.6)),
    "resnext_101_1x100d": PublishedFacts(85_611_336, 15_272_862_720, _xie(4, 21.3, 5.7)),
    "resnext_101_2x64d": PublishedFacts(84_198_184, 15_123_087_360, _xie(4, 20.7, 5.5)),
    # torchvision's weights of this network come from a later recipe.
    "resnext_101_64x4d": PublishedFacts(83_455_272, 15_460_270_080, _xie(4, 20.4, 5.3) + _xie(5, 19.1, 4.4, size=320)),
    "resnext_101_32x8d": PublishedFacts(88_791_336, 16_414_015_488, _torchvision(20.688, 5.474)),
    "densenet_121": PublishedFacts(
        7_978_856,
        2_834_161_664,
        _dense((25.02, 7.71), (23.61, 6.66)) + _dense_release(25.0) + _torchvision(25.566, 8.028),
    ),
    "densenet_161": PublishedFacts(
        28_681_000,
        7_727_907_072,
        _result(HUANG_2016_DENSE, "table of an earlier version", (22.33, 6.15), **_ONE_CROP)
        + _dense_release(22.2)
        + _torchvision(22.862, 6.440),
    ),
    "densenet_169": PublishedFacts(
        14_149_480,
        3_359_843_328,
        _dense((23.80, 6.85), (22.08, 5.92)) + _dense_release(23.6) + _torchvision(24.400, 7.194),
    ),
    "densenet_201": PublishedFacts(
        20_013_928,
        4_291_365_888,
        _dense((22.58, 6.34), (21.46, 5.54)) + _dense_release(22.5) + _torchvision(23.104, 6.630),
    ),
    "densenet_264": PublishedFacts(33_337_704, 5_751_653_376, _dense((22.15, 6.12), (20.80, 5.29))),
    "wider_resnet_38_a": PublishedFacts(109_167_912, 49_518_575_616, _wu(19.20, 4.73)),
    "wider_resnet_38_a1": PublishedFacts(109_167_912, 49_518_575_616, _wu(19.54, 4.75, "tuned from model A")),
    "wider_resnet_38_a2": PublishedFacts(109_167_912, 49_518_575_616),
}
