"""Folders of finished runs, as experiments.cifar leaves them."""

import dataclasses

import jax

from experiments.configs.cifar import CONFIGS
from experiments.configs.programs import CIFAR
from experiments.launch.summary import summarize
from experiments.training.metric import TEST_ERROR
from experiments.training.workdir import Workdir
from resjax import create_model, train
from resjax.models import parameter_count


def write_run(path, name, errors=(20.0, 8.0, 9.0), train_images=50_000, draw_variables=None, **changes):
    """Writes a run of a named config with `changes`; with `draw_variables` also a checkpoint, of random weights."""
    named = CONFIGS[name]
    config = dataclasses.replace(named.config, **changes)
    workdir = Workdir(path)
    workdir.start(config.resolved(name))
    for epoch, error in enumerate(errors, start=1):
        times = {"train_seconds": 3000.0, "test_seconds": 600.0}
        record = {"epoch": epoch, "step": 390 * epoch, "test_error": error, **times}
        if config.validation_images:  # the first epoch is the best there
            record |= {"validation_loss": 0.5, "validation_error": 5.0 + epoch}
        workdir.append_metrics(record)
    records = workdir.records()
    summary = summarize(CIFAR, name, named, config, records, workdir, TEST_ERROR, "images")
    model = create_model(config.model.name, **config.model_options())
    facts = {
        "published": None,
        "parameters": parameter_count(model, (32, 32, 3)),
        "train_images": train_images,
        "test_images": 10_000,
    }
    workdir.write_summary(summary | facts)
    if draw_variables is not None:
        optimizer = train.sgd(0.1)
        variables = draw_variables(model, jax.numpy.zeros((1, 32, 32, 3)))
        state = train.create_state(model, optimizer, config.seed, (32, 32, 3), variables=variables)
        with train.Checkpoints(workdir.checkpoints) as checkpoints:
            checkpoints.save(state, train.Totals.zero(), {})
    return path
