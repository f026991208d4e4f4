"""Exact counts and published test errors of the networks for 32x32 images: CIFAR and SVHN.

Counts are those of convolutions, BN scale and bias, and linear layers, for 10 classes and one 32x32x3 image.
"""

from resjax.models.published import (
    HE_2015,
    HE_2016,
    HUANG_2016_DENSE,
    SRIVASTAVA_2015,
    XIE_2016,
    ZAGORUYKO_2016,
    Facts,
    PublishedResult,
)

MEDIAN = "median of 5, mean/std"
ZCA_MEDIAN = "median of 5, ZCA whitening"
ZCA = "statistic not stated, ZCA whitening"

Results = tuple[PublishedResult, ...]


def _results(source: str, statistic: str, **errors: float | None) -> Results:
    """One result for each dataset with an error."""
    return tuple(PublishedResult(name, e, statistic, source) for name, e in errors.items() if e is not None)


def _he_2015(error: float, statistic: str = "single run") -> Results:
    return _results(f"{HE_2015}, table 6", statistic, cifar10=error)


def he_2016(table: int, cifar10: float | None, cifar100: float | None = None, more: str = "") -> Results:
    """A row of a table of the pre-activation paper, for CIFAR-10 and where printed CIFAR-100."""
    return _results(f"{HE_2016}, table {table}", f"median of 5{more}", cifar10=cifar10, cifar100=cifar100)


def wide(table: int, statistic: str, cifar10: float, cifar100: float | None = None) -> Results:
    """A row of a table of the Wide ResNet paper, for CIFAR-10 and where printed CIFAR-100."""
    return _results(f"{ZAGORUYKO_2016}, table {table}", statistic, cifar10=cifar10, cifar100=cifar100)


def _wide_svhn(place: str, error: float, statistic: str = "statistic not stated") -> Results:
    # Train and extra images divided by 255.
    return _results(f"{ZAGORUYKO_2016}, {place}", f"{statistic}, no augmentation", svhn_cropped=error)


def _resnext(cifar10: float, cifar100: float) -> Results:
    return _results(f"{XIE_2016}, table 7", "mean of 10 runs", cifar10=cifar10, cifar100=cifar100)


def _dense(augmented: tuple[float, float], unaugmented: tuple[float, float, float] | None = None) -> Results:
    """Errors for CIFAR-10 and CIFAR-100 with crops and flips, and for both and SVHN without."""
    source = f"{HUANG_2016_DENSE}, table 2"
    results = _results(source, "single run, crops and flips", cifar10=augmented[0], cifar100=augmented[1])
    if unaugmented is None:
        return results
    errors = dict(zip(("cifar10", "cifar100", "svhn_cropped"), unaugmented, strict=True))
    return results + _results(source, "single run, no augmentation, dropout 0.2", **errors)


def _wide_dense(cifar10: float, cifar100: float) -> Results:
    source = "github.com/liuzhuang13/DenseNet, README"
    return _results(source, "single number, crops and flips", cifar10=cifar10, cifar100=cifar100)


def _unaugmented(cifar10: float, cifar100: float) -> Results:
    """Pre-activation networks as the DenseNet authors ran them."""
    return _results(f"{HUANG_2016_DENSE}, table 2", "no augmentation", cifar10=cifar10, cifar100=cifar100)


_WRN_40_4_LOG = _results(
    "github.com/szagoruyko/wide-residual-networks, logs", "single run, ZCA whitening", cifar10=5.11
)
_HIGHWAY = (
    _results(f"{SRIVASTAVA_2015}, table 3", "best of 5 (mean 7.69 +- 0.12)", cifar10=7.60)
    + _results(f"{SRIVASTAVA_2015}, table 3", "best of 5 (mean 32.39 +- 0.15)", cifar100=32.24)
    + _results(
        "github.com/flukeskywalker/highway-networks, logs", "single run, last step", cifar10=7.86, cifar100=31.91
    )
)
_NARROW_HIGHWAY = _results(f"{SRIVASTAVA_2015}, table 1", "best of 5 (mean 0.60 +- 0.03)", mnist=0.57)
_MNIST_HIGHWAY = _results(f"{SRIVASTAVA_2015}, table 1", "best of 5 (mean 0.46 +- 0.02)", mnist=0.45) + _results(
    "github.com/flukeskywalker/highway-networks, logs", "single run, last step", mnist=0.46
)

# Plain networks have curves only (He et al. 2015, figure 6), plain-110 "higher than 60%".
CIFAR_NETWORKS = {
    "resnet_20": Facts(269_722, 40_551_040, _he_2015(8.75)),
    "resnet_32": Facts(464_154, 68_862_592, _he_2015(7.51)),
    "resnet_44": Facts(658_586, 97_174_144, _he_2015(7.17)),
    "resnet_56": Facts(853_018, 125_485_696, _he_2015(6.97)),
    "resnet_110": Facts(1_727_962, 252_887_680, _he_2015(6.43, "best of 5 (mean 6.61 +- 0.16)") + he_2016(3, 6.61)),
    "resnet_1202": Facts(19_421_274, 2_829_238_912, _he_2015(7.93)),
    "plain_20": Facts(269_722, 40_551_040),
    "plain_32": Facts(464_154, 68_862_592),
    "plain_44": Facts(658_586, 97_174_144),
    "plain_56": Facts(853_018, 125_485_696),
    "plain_110": Facts(1_727_962, 252_887_680),
    "preresnet_110": Facts(1_727_962, 252_887_680, he_2016(3, 6.37)),
    "preresnet_164": Facts(1_703_258, 244_500_992, he_2016(3, 5.46, 24.33) + _unaugmented(11.26, 35.58)),
    "preresnet_1001": Facts(
        10_327_706,
        1_487_849_984,
        he_2016(3, 4.92, more=" (mean 4.89 +- 0.14)")
        + he_2016(3, None, 22.71, " (mean 22.68 +- 0.22)")
        + he_2016(4, 4.62, more=" (mean 4.69 +- 0.20), batch 64")
        + _unaugmented(10.56, 33.47),
    ),
    "wrn_16_4": Facts(
        2_748_890,
        392_612_352,
        wide(6, MEDIAN, 5.02, 24.03)
        + _wide_svhn("table 6", 1.85)
        + _wide_svhn("table 6", 1.64, "statistic not stated, dropout 0.4"),
    ),
    "wrn_16_8": Facts(
        10_961_370,
        1_548_145_664,
        wide(5, MEDIAN, 4.27, 20.43)
        + wide(4, ZCA, 4.81, 22.07)
        + _wide_svhn("section 3", 1.81)
        + _wide_svhn("table 9", 1.54, "single run, dropout 0.4"),
    ),
    "wrn_16_10": Facts(17_116_634, 2_412_173_568, wide(4, ZCA, 4.56, 21.59)),
    "wrn_22_8": Facts(17_158_106, 2_454_115_328, wide(4, ZCA, 4.38, 21.22)),
    "wrn_22_10": Facts(26_797_914, 3_827_751_168, wide(4, ZCA, 4.44, 20.75)),
    "wrn_28_2": Facts(1_467_610, 214_353_152, wide(2, ZCA_MEDIAN, 5.73)),
    "wrn_28_10": Facts(36_479_194, 5_243_328_768, wide(5, MEDIAN, 4.00, 19.25) + wide(4, ZCA, 4.17, 20.50)),
    "wrn_28_12": Facts(52_517_850, 7_543_905_792, wide(4, ZCA, 4.33, 20.43)),
    "wrn_40_1": Facts(563_930, 83_280_512, wide(4, ZCA, 6.85, 30.89)),
    "wrn_40_2": Facts(2_243_546, 327_599_360, wide(4, ZCA, 5.33, 26.04) + wide(3, ZCA_MEDIAN, 5.43)),
    "wrn_40_4": Facts(
        8_949_210, 1_298_582_016, wide(5, MEDIAN, 4.53, 21.18) + wide(4, ZCA, 4.97, 22.89) + _WRN_40_4_LOG
    ),
    "wrn_40_8": Facts(35_748_314, 5_172_024_320, wide(4, ZCA, 4.66)),
    "wrn_40_10": Facts(55_841_754, 8_074_483_968, wide(9, "single run, dropout 0.3, mean/std", 3.80, 18.30)),
    "wrn_52_1": Facts(
        758_362,
        111_592_064,
        wide(6, MEDIAN, 6.43, 29.89)
        + _wide_svhn("table 6", 2.08)
        + _wide_svhn("table 6", 1.70, "statistic not stated, dropout 0.4"),
    ),
    "resnext_29_8x64d": Facts(34_426_698, 5_387_266_048, _resnext(3.65, 17.77)),
    "resnext_29_16x64d": Facts(68_155_210, 10_688_866_304, _resnext(3.58, 17.31)),
    "densenet_40_12": Facts(1_019_722, 264_812_928, _dense((5.24, 24.42), (7.00, 27.55, 1.79))),
    "densenet_100_12": Facts(6_979_642, 1_769_516_448, _dense((4.10, 20.20), (5.77, 23.79, 1.67))),
    "densenet_100_24": Facts(27_249_082, 6_889_347_744, _dense((3.74, 19.25), (5.83, 23.42, 1.59))),
    "densenet_bc_100_12": Facts(769_162, 287_929_692, _dense((4.51, 22.27), (5.92, 24.15, 1.76))),
    "densenet_bc_250_24": Facts(15_324_406, 5_418_785_724, _dense((3.62, 17.60), (5.19, 19.64, 1.74))),
    "densenet_bc_190_40": Facts(25_624_430, 9_301_945_740, _dense((3.46, 17.18))),
    "densenet_bc_40_36": Facts(1_542_682, 647_298_936, _wide_dense(4.58, 22.30)),
    "densenet_bc_40_48": Facts(2_733_130, 1_149_867_168, _wide_dense(3.99, 20.29)),
    "densenet_bc_40_60": Facts(4_261_690, 1_795_836_360, _wide_dense(4.01, 19.99)),
    "highway_19": Facts(2_256_838, 330_826_728, _HIGHWAY),
    "highway_10_16": Facts(38_986, 8_028_576, _NARROW_HIGHWAY),
    "highway_10_32": Facts(151_690, 31_650_624, _MNIST_HIGHWAY),
    # Veit et al. 2016 print no error of the whole network, only curves of what is left of it.
    "vgg_15": Facts(1_925_258, 304_940_288),
    "speed_resnet": Facts(1_972_480, 118_147_360),
}
