"""Training of classifiers of small images."""

import dataclasses

from experiments.configs.base import Config
from experiments.configs.programs import CIFAR, PROGRAMS
from experiments.inputs.images import preprocessing, whitened
from experiments.inputs.splits import data_info, input_channels, load_splits, stand_in_splits, training_size
from experiments.launch.run import Program, Sources
from experiments.training.metric import TEST_ERROR
from experiments.training.task import Task
from resjax import train
from resjax.data import identity


class Cifar(Program):
    """Small images, all in memory."""

    name, configs, metric = CIFAR, PROGRAMS[CIFAR], TEST_ERROR

    def expected(self, config: Config) -> Sources:
        return self._sources(config, training_size(config))

    def open(self, config, console) -> Sources:
        splits = load_splits(config)
        # A TFDS directory may have been prepared with fewer images than the dataset has.
        return self._sources(config, len(splits.train.images), splits)

    def _sources(self, config: Config, train_images: int, splits=None) -> Sources:
        info = data_info(config)
        shape = (*info.image_shape[:2], input_channels(info, config.model.name))
        expected = Sources(info.description, info.num_classes, train_images, shape)
        if splits is None:
            return expected
        read = {name: data for name, data in splits._asdict().items() if data is not None}
        return dataclasses.replace(
            expected, test_images=len(splits.test.images), data=splits, identity=identity(info, read)
        )

    def task(self, config: Config, sources, model, optimizer, schedule, console) -> Task:
        splits = stand_in_splits(config) if sources.data is None else sources.data
        prepared = preprocessing(config, splits.train.images)
        return Task(
            model=model if config.pretrained else whitened(model, prepared["normalize"], splits.train.images),
            optimizer=optimizer,
            schedule=schedule,
            **prepared,
            train_data=splits.train,
            test_data=splits.test,
            validation_data=splits.validation,
            objective=train.classification(config.label_smoothing),
        )

    def summary(self, sources, record):
        validation = sources.data.validation
        return {"validation_images": 0 if validation is None else len(validation.images)}
