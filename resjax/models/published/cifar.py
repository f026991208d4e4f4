"""Exact counts and published test errors of the networks for 32x32 images: CIFAR and SVHN.

Counts include convolutions, BN scale and bias, and linear layers, for 10 classes and one 32x32x3 image.
"""

from collections.abc import Mapping
from typing import Any

from resjax.models.published import (
    HE_2015,
    HE_2016,
    HUANG_2016_DENSE,
    HUANG_2016_DENSE_CODE,
    SRIVASTAVA_2015,
    SRIVASTAVA_2015_CODE,
    XIE_2016,
    ZAGORUYKO_2016,
    ZAGORUYKO_2016_CODE,
    Paper,
    PublishedFacts,
    PublishedResult,
)

Results = tuple[PublishedResult, ...]

_MEDIAN = {"aggregate": "median", "runs": 5}


def _results(origin: Paper | str, place: str, errors: Mapping[str, float | None], **protocol: Any) -> Results:
    """One result for each dataset with an error, all measured in the same way."""
    return tuple(
        PublishedResult(error, dataset=name, origin=origin, place=place, **protocol)
        for name, error in errors.items()
        if error is not None
    )


def _he_2015(error: float, **protocol: Any) -> Results:
    return _results(HE_2015, "table 6", {"cifar10": error}, **{"aggregate": "single"} | protocol)


def he_2016(table: int, cifar10: float | None, cifar100: float | None = None, **protocol: Any) -> Results:
    """A row of a table of the pre-activation paper, for CIFAR-10 and, if printed, CIFAR-100."""
    errors = {"cifar10": cifar10, "cifar100": cifar100}
    return _results(HE_2016, f"table {table}", errors, **_MEDIAN, **protocol)


def wide(table: int, cifar10: float, cifar100: float | None = None, **protocol: Any) -> Results:
    """A row of a table of medians of the Wide ResNet paper, for CIFAR-10 and, if printed, CIFAR-100.

    Tables 2 and 3 are for whitened images; 5 and 6 for images normalised by mean and std.
    """
    images = {"whitened": True} if table in (2, 3) else {"note": "mean/std"}
    errors = {"cifar10": cifar10, "cifar100": cifar100}
    return _results(ZAGORUYKO_2016, f"table {table}", errors, **_MEDIAN | images | protocol)


def _wide_zca(cifar10: float, cifar100: float | None = None) -> Results:
    """A row of table 4, which does not say which statistic the numbers are."""
    return wide(4, cifar10, cifar100, aggregate="not_stated", runs=None, note="", whitened=True)


def _wide_svhn(place: str, error: float, **protocol: Any) -> Results:
    # Train and extra images divided by 255.
    return _results(ZAGORUYKO_2016, place, {"svhn_cropped": error}, augmented=False, **protocol)


def _resnext(cifar10: float, cifar100: float) -> Results:
    errors = {"cifar10": cifar10, "cifar100": cifar100}
    return _results(XIE_2016, "table 7", errors, aggregate="mean", runs=10)


def _dense(augmented: tuple[float, float], unaugmented: tuple[float, float, float] | None = None) -> Results:
    """Errors for CIFAR-10 and CIFAR-100 with crops and flips, and for both and SVHN without augmentation."""
    names = ("cifar10", "cifar100", "svhn_cropped")
    source = (HUANG_2016_DENSE, "table 2")
    results = _results(*source, dict(zip(names, augmented, strict=False)), aggregate="single")
    if unaugmented is None:
        return results
    errors = dict(zip(names, unaugmented, strict=True))
    return results + _results(*source, errors, aggregate="single", augmented=False, options={"dropout_rate": 0.2})


def _wide_dense(cifar10: float, cifar100: float) -> Results:
    return _results(HUANG_2016_DENSE_CODE, "README", {"cifar10": cifar10, "cifar100": cifar100})


def _unaugmented(cifar10: float, cifar100: float) -> Results:
    """Pre-activation networks as the DenseNet authors ran them."""
    return _results(HUANG_2016_DENSE, "table 2", {"cifar10": cifar10, "cifar100": cifar100}, augmented=False)


def _highway(table: int, errors: Mapping[str, float], mean: float, std: float, augmented: bool) -> Results:
    return _results(
        *(SRIVASTAVA_2015, f"table {table}", errors),
        aggregate="best",
        runs=5,
        mean=mean,
        std=std,
        augmented=augmented,
    )


def _highway_logs(augmented: bool, **errors: float) -> Results:
    return _results(SRIVASTAVA_2015_CODE, "logs", errors, aggregate="single", epoch="last", augmented=augmented)


_WRN_40_4_LOG = _results(ZAGORUYKO_2016_CODE, "logs", {"cifar10": 5.11}, aggregate="single", whitened=True)
_HIGHWAY = (
    _highway(3, {"cifar10": 7.60}, 7.69, 0.12, augmented=True)
    + _highway(3, {"cifar100": 32.24}, 32.39, 0.15, augmented=True)
    + _highway_logs(True, cifar10=7.86, cifar100=31.91)
)
_NARROW_HIGHWAY = _highway(1, {"mnist": 0.57}, 0.60, 0.03, augmented=False)
_MNIST_HIGHWAY = _highway(1, {"mnist": 0.45}, 0.46, 0.02, augmented=False) + _highway_logs(False, mnist=0.46)

# Plain networks have curves only (He et al. 2015, figure 6), plain-110 "higher than 60%".
CIFAR_NETWORKS = {
    "resnet_20": PublishedFacts(269_722, 40_551_040, _he_2015(8.75)),
    "resnet_32": PublishedFacts(464_154, 68_862_592, _he_2015(7.51)),
    "resnet_44": PublishedFacts(658_586, 97_174_144, _he_2015(7.17)),
    "resnet_56": PublishedFacts(853_018, 125_485_696, _he_2015(6.97)),
    "resnet_110": PublishedFacts(
        1_727_962, 252_887_680, _he_2015(6.43, aggregate="best", runs=5, mean=6.61, std=0.16) + he_2016(3, 6.61)
    ),
    "resnet_1202": PublishedFacts(19_421_274, 2_829_238_912, _he_2015(7.93)),
    "plain_20": PublishedFacts(269_722, 40_551_040),
    "plain_32": PublishedFacts(464_154, 68_862_592),
    "plain_44": PublishedFacts(658_586, 97_174_144),
    "plain_56": PublishedFacts(853_018, 125_485_696),
    "plain_110": PublishedFacts(1_727_962, 252_887_680),
    "preresnet_110": PublishedFacts(1_727_962, 252_887_680, he_2016(3, 6.37)),
    "preresnet_164": PublishedFacts(1_703_258, 244_500_992, he_2016(3, 5.46, 24.33) + _unaugmented(11.26, 35.58)),
    "preresnet_1001": PublishedFacts(
        10_327_706,
        1_487_849_984,
        he_2016(3, 4.92, mean=4.89, std=0.14)
        + he_2016(3, None, 22.71, mean=22.68, std=0.22)
        + he_2016(4, 4.62, mean=4.69, std=0.20, batch_size=64)
        + _unaugmented(10.56, 33.47),
    ),
    "wrn_16_4": PublishedFacts(
        2_748_890,
        392_612_352,
        wide(6, 5.02, 24.03) + _wide_svhn("table 6", 1.85) + _wide_svhn("table 6", 1.64, options={"dropout_rate": 0.4}),
    ),
    "wrn_16_8": PublishedFacts(
        10_961_370,
        1_548_145_664,
        wide(5, 4.27, 20.43)
        + _wide_zca(4.81, 22.07)
        + _wide_svhn("section 3", 1.81)
        + _wide_svhn("table 9", 1.54, aggregate="single", options={"dropout_rate": 0.4}),
    ),
    "wrn_16_10": PublishedFacts(17_116_634, 2_412_173_568, _wide_zca(4.56, 21.59)),
    "wrn_22_8": PublishedFacts(17_158_106, 2_454_115_328, _wide_zca(4.38, 21.22)),
    "wrn_22_10": PublishedFacts(26_797_914, 3_827_751_168, _wide_zca(4.44, 20.75)),
    "wrn_28_2": PublishedFacts(1_467_610, 214_353_152, wide(2, 5.73)),
    "wrn_28_10": PublishedFacts(36_479_194, 5_243_328_768, wide(5, 4.00, 19.25) + _wide_zca(4.17, 20.50)),
    "wrn_28_12": PublishedFacts(52_517_850, 7_543_905_792, _wide_zca(4.33, 20.43)),
    "wrn_40_1": PublishedFacts(563_930, 83_280_512, _wide_zca(6.85, 30.89)),
    "wrn_40_2": PublishedFacts(2_243_546, 327_599_360, _wide_zca(5.33, 26.04) + wide(3, 5.43)),
    "wrn_40_4": PublishedFacts(8_949_210, 1_298_582_016, wide(5, 4.53, 21.18) + _wide_zca(4.97, 22.89) + _WRN_40_4_LOG),
    "wrn_40_8": PublishedFacts(35_748_314, 5_172_024_320, _wide_zca(4.66)),
    "wrn_40_10": PublishedFacts(
        55_841_754, 8_074_483_968, wide(9, 3.80, 18.30, aggregate="single", runs=None, options={"dropout_rate": 0.3})
    ),
    "wrn_52_1": PublishedFacts(
        758_362,
        111_592_064,
        wide(6, 6.43, 29.89) + _wide_svhn("table 6", 2.08) + _wide_svhn("table 6", 1.70, options={"dropout_rate": 0.4}),
    ),
    "resnext_29_8x64d": PublishedFacts(34_426_698, 5_387_266_048, _resnext(3.65, 17.77)),
    "resnext_29_16x64d": PublishedFacts(68_155_210, 10_688_866_304, _resnext(3.58, 17.31)),
    "densenet_40_12": PublishedFacts(1_019_722, 264_812_928, _dense((5.24, 24.42), (7.00, 27.55, 1.79))),
    "densenet_100_12": PublishedFacts(6_979_642, 1_769_516_448, _dense((4.10, 20.20), (5.77, 23.79, 1.67))),
    "densenet_100_24": PublishedFacts(27_249_082, 6_889_347_744, _dense((3.74, 19.25), (5.83, 23.42, 1.59))),
    "densenet_bc_100_12": PublishedFacts(769_162, 287_929_692, _dense((4.51, 22.27), (5.92, 24.15, 1.76))),
    "densenet_bc_250_24": PublishedFacts(15_324_406, 5_418_785_724, _dense((3.62, 17.60), (5.19, 19.64, 1.74))),
    "densenet_bc_190_40": PublishedFacts(25_624_430, 9_301_945_740, _dense((3.46, 17.18))),
    "densenet_bc_40_36": PublishedFacts(1_542_682, 647_298_936, _wide_dense(4.58, 22.30)),
    "densenet_bc_40_48": PublishedFacts(2_733_130, 1_149_867_168, _wide_dense(3.99, 20.29)),
    "densenet_bc_40_60": PublishedFacts(4_261_690, 1_795_836_360, _wide_dense(4.01, 19.99)),
    "highway_19": PublishedFacts(2_256_838, 330_826_728, _HIGHWAY),
    "highway_10_16": PublishedFacts(38_986, 8_028_576, _NARROW_HIGHWAY),
    "highway_10_32": PublishedFacts(151_690, 31_650_624, _MNIST_HIGHWAY),
    # Veit et al. 2016 print no error of the whole network, only curves for networks with layers removed.
    "vgg_15": PublishedFacts(1_925_258, 304_940_288),
    "speed_resnet": PublishedFacts(1_972_480, 118_147_360),
}
