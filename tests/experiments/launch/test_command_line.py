"""What is said of a named config that a command line asks for wrongly."""

import pytest

from experiments.configs.programs import CIFAR, PROGRAMS
from experiments.launch.command_line import parse
from resjax import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "^--config needs a name after it$"),
        (["--epochs", "1"], r"^--config NAME is missing, for example \w+ \(--list shows all \d+\)$"),
        (["--config", "resnet_21"], r"^unknown config 'resnet_21'; did you mean 'resnet_\d+'"),
        (["--config", "resnet_20", "--config=resnet_32"], "given as resnet_20 and as resnet_32: choose one$"),
    ],
)
def test_a_config_that_cannot_be_chosen_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        parse(CIFAR, PROGRAMS[CIFAR], arguments)


def test_the_flag_of_earlier_versions_for_tensorboard_is_a_tracker(capsys):
    config = parse(CIFAR, PROGRAMS[CIFAR], ["--config", "quickstart", "--tensorboard", "--epochs", "3"])[2]
    assert (config.tracker, config.epochs) == (("tensorboard",), 3)
    assert capsys.readouterr().err == "--tensorboard is now --tracker tensorboard\n"
