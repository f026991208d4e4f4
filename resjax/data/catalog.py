"""Facts about each published dataset, known before a file is opened: sizes, classes, normalisation constants."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from resjax.errors import unknown_name


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about one dataset. The facts about "arrays" are read from its files.

    Attributes:
      name: the name that `load_dataset` takes. It is also the TFDS name, except for `cifar10_mini` and "arrays".
      num_classes: labels are 0 .. num_classes - 1.
      image_shape: (H, W, C) of every image.
      split_sizes: number of images in each official split; for "arrays", in each split of the file.
      class_names: name of each label, in label order.
      mean: per channel, on the 0-255 scale; `(image - mean) / std` is the published preprocessing. For "arrays", mean
        and std are computed from the training images, or from the first split if there are no training images.
      std: per channel, on the 0-255 scale.
      description: one line that says what it is.
      homepage: where the data comes from.
      citation: the publication to cite.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    split_sizes: Mapping[str, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str
    homepage: str
    citation: str

    def require_split(self, split: str) -> None:
        """Raises `InputError`, with the nearest names, unless `split` is one of this dataset's."""
        if split not in self.split_sizes:
            raise unknown_name(f"split of {self.name}", str(split), self.split_sizes)


_DIGITS = tuple("0123456789")
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# fb.resnet.torch, datasets/cifar10.lua: over the 50,000 training images. Wide ResNet uses these for CIFAR-100 as well.
_CIFAR10_MEAN, _CIFAR10_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
# fb.resnet.torch, datasets/cifar100.lua: over CIFAR-100's own training images.
_CIFAR100_MEAN, _CIFAR100_STD = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)
# The constants of the PyTorch MNIST example (0.1307, 0.3081); for Fashion-MNIST the same statistics of its own images.
_MNIST_MEAN, _MNIST_STD = (0.1307 * 255,), (0.3081 * 255,)
_FASHION_MEAN, _FASHION_STD = (0.2860 * 255,), (0.3530 * 255,)
# Wide ResNet (section 3, SVHN) and DenseNet (section 4.1) only divide the pixels by 255.
_SVHN_MEAN, _SVHN_STD = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)

_KRIZHEVSKY = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def _info(
    name: str,
    image_shape: tuple[int, int, int],
    split_sizes: dict[str, int],
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    description: str,
    homepage: str,
    citation: str,
) -> DatasetInfo:
    # The record is shared by all callers, so its mapping is read-only too.
    sizes = MappingProxyType(split_sizes)
    return DatasetInfo(
        name, len(class_names), image_shape, sizes, class_names, mean, std, description, homepage, citation
    )


CATALOG = {
    info.name: info
    for info in (
        _info(
            "cifar10",
            (32, 32, 3),
            {"train": 50_000, "test": 10_000},
            _CIFAR10_CLASSES,
            _CIFAR10_MEAN,
            _CIFAR10_STD,
            "CIFAR-10: 60,000 colour photographs of 10 classes, 32x32 pixels",
            _CIFAR_PAGE,
            _KRIZHEVSKY,
        ),
        _info(
            "cifar100",
            (32, 32, 3),
            {"train": 50_000, "test": 10_000},
            _CIFAR100_CLASSES,
            _CIFAR100_MEAN,
            _CIFAR100_STD,
            "CIFAR-100 with its 100 fine labels: 60,000 colour photographs, 32x32 pixels",
            _CIFAR_PAGE,
            _KRIZHEVSKY,
        ),
        _info(
            "cifar10_mini",
            (32, 32, 3),
            {"train": 5_000, "test": 1_000},
            _CIFAR10_CLASSES,
            _CIFAR10_MEAN,
            _CIFAR10_STD,
            "an embedded class-balanced subset, 500 training and 100 test images per class of CIFAR-10; "
            "errors on it are not CIFAR-10 errors",
            _CIFAR_PAGE,
            _KRIZHEVSKY,
        ),
        _info(
            "mnist",
            (28, 28, 1),
            {"train": 60_000, "test": 10_000},
            _DIGITS,
            _MNIST_MEAN,
            _MNIST_STD,
            "MNIST: 70,000 grayscale handwritten digits, 28x28 pixels",
            "http://yann.lecun.com/exdb/mnist/",
            "LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998",
        ),
        _info(
            "fashion_mnist",
            (28, 28, 1),
            {"train": 60_000, "test": 10_000},
            _FASHION_CLASSES,
            _FASHION_MEAN,
            _FASHION_STD,
            "Fashion-MNIST: 70,000 grayscale pictures of clothing, 28x28 pixels",
            "https://github.com/zalandoresearch/fashion-mnist",
            "Xiao et al., Fashion-MNIST: a Novel Image Dataset, 2017, arXiv:1708.07747",
        ),
        _info(
            "svhn_cropped",
            (32, 32, 3),
            {"train": 73_257, "test": 26_032, "extra": 531_131},
            _DIGITS,
            _SVHN_MEAN,
            _SVHN_STD,
            "SVHN, cropped: colour photographs of house-number digits, 32x32 pixels, with the easier `extra` split",
            "http://ufldl.stanford.edu/housenumbers/",
            "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011",
        ),
    )
}
