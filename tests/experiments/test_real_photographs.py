"""Training on a folder of JPEG files made of the real CIFAR-10: a useful accuracy after minutes on two CPU cores."""

import collections
import json

import pytest
from PIL import Image

from experiments import imagenet
from resjax.data import dataset_info, load_dataset

pytestmark = pytest.mark.fully_compiled


@pytest.mark.slow
def test_the_quickstart_learns_four_classes_from_a_folder(tmp_path, real_data_dir):
    names, counts = dict(enumerate(dataset_info("cifar10").class_names[:4])), collections.Counter()
    for split, folder, count in (("train", "train", 10_000), ("test", "val", 2_000)):
        images, labels = load_dataset("cifar10", split, real_data_dir)
        for number, (image, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
            if label not in names:
                continue
            counts[folder] += 1
            path = tmp_path / "photos" / folder / names[label]
            path.mkdir(parents=True, exist_ok=True)
            enlarged = Image.fromarray(image).resize((80, 64), Image.Resampling.BICUBIC)
            enlarged.save(path / f"{number:05d}.jpg", quality=90)
    arguments = ["--config", "quickstart", "--data_dir", str(tmp_path / "photos"), "--epochs", "6"]
    assert imagenet.main([*arguments, "--workdir", str(tmp_path / "run"), "--workers", "1"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_images"] == counts["val"]
    assert summary["final_test_error"] < 40  # of 75 by chance
