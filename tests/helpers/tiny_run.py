"""A run of the engine on a small network and 8x8 images: python -m tests.helpers.tiny_run WORKDIR [flags].

It starts, is stopped, and leaves as the commands do, in a fraction of their time.
"""

import sys

import jax
import tyro
from rich.console import Console

from experiments.configs import Config, ModelConfig
from experiments.launch.flags import REGISTRY
from experiments.runtime.backend import prepare_backend
from experiments.runtime.exit_codes import exit_code, leave
from experiments.runtime.processes import join_processes
from experiments.training.engine import Engine
from experiments.training.task import Task
from experiments.training.workdir import Workdir
from resjax import create_model, train
from tests.helpers import problem

LEARNING_RATE = 0.02
CONFIG = Config(
    ModelConfig("resnet_8", norm_scope=2),
    dataset="cifar10_mini",
    epochs=2,
    batch_size=16,
    eval_batch_size=32,
    checkpoint_minutes=0.01,
)


def build():
    """(model, optimizer)"""
    model = create_model("resnet_8", norm_scope=2)
    return model, train.sgd(LEARNING_RATE, weight_decay=1e-3)


def main(arguments: list[str]) -> int:
    config = tyro.cli(Config, default=CONFIG, args=arguments, use_underscores=True, registry=REGISTRY)

    def command():
        batches = config.batch_size, config.eval_batch_size
        prepare_backend(batches, config.compilation_cache, join_processes(config))
        network, optimizer = build()
        task = Task(
            model=network,
            optimizer=optimizer,
            schedule=lambda step: LEARNING_RATE,
            prepare=problem.prepare,
            normalize=problem.normalize,
            train_data=problem.images_and_labels(1600),
            test_data=problem.images_and_labels(50, seed=1),
            title="test",
        )
        leads = jax.process_index() == 0
        workdir = Workdir(config.workdir, writes=leads)
        workdir.make()
        resolved = {"name": "tiny", "config": config.identity()}
        Engine(config, task, workdir, resolved, Console(soft_wrap=True, quiet=not leads)).run()

    return exit_code(command)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
