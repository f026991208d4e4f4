"""A classifier from a run or from weights; what says too little of itself is refused with the way out."""

import os

import numpy as np
import pytest

from experiments.configs.imagenet import CONFIGS as IMAGENET
from experiments.configs.segmentation import CONFIGS as SEGMENTATION
from experiments.evaluation.classifier import ImageFiles, WeightsOptions, load_classifier
from experiments.training.workdir import Workdir
from resjax import InputError, save_pretrained
from resjax.data.images import BrokenImage
from tests.helpers.pretrained_networks import MODEL


def test_weights_that_do_not_say_the_size_of_their_images_are_refused(tmp_path, draw_variables):
    variables = draw_variables(MODEL, np.zeros((1, 32, 32, 3), np.float32))
    save_pretrained(tmp_path / "net", MODEL, variables, {"mean": [1.0, 2.0, 3.0], "std": [9.0, 9.0, 9.0]})
    with pytest.raises(InputError, match="net: does not say which size its images have; save it again with about="):
        load_classifier(str(tmp_path / "net"), WeightsOptions())
    trunk = MODEL.clone(num_classes=0)
    save_pretrained(tmp_path / "trunk", trunk, variables, {"mean": [1.0, 2.0, 3.0], "std": [9.0, 9.0, 9.0]})
    with pytest.raises(InputError, match="trunk: has no classifier; give the weights of one"):
        load_classifier(str(tmp_path / "trunk"), WeightsOptions())


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (IMAGENET, "this run does not say what its classes are called; it is of an early version"),
        (SEGMENTATION, "a run on masks; what it sees, `python -m experiments.segmentation predict"),
    ],
)
def test_a_run_that_classifies_no_photographs_is_refused(tmp_path, configs, message):
    Workdir(tmp_path).start(configs["quickstart"].config.resolved("quickstart"))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match=message):
        load_classifier(str(tmp_path), WeightsOptions())


def test_a_file_that_is_gone_is_a_broken_image(tmp_path):
    with pytest.raises(BrokenImage, match="No such file or directory"):
        ImageFiles([str(tmp_path / "gone.png")]).read(0)


def test_a_pipe_among_the_files_is_a_broken_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would never end
    with pytest.raises(BrokenImage, match="no regular file"):
        ImageFiles([str(tmp_path / "pipe.png")]).read(0)
