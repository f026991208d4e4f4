"""Several processes of one run that are given different data."""

import numpy as np

from tests.helpers.processes import ProcessGroup

ARRAYS = (
    *("-m", "experiments.cifar", "--config", "quickstart", "--model.name", "resnet_8", "--dataset", "arrays"),
    *("--batch_size", "8", "--eval_batch_size", "8", "--epochs", "1"),
)


def test_processes_that_see_different_data_are_told_and_none_waits(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 2
    for process, count in enumerate((40, 30)):
        np.savez(tmp_path / f"own{process}.npz", images=images[:count], labels=labels[:count])
    own = str(tmp_path / "own{process}.npz")
    with ProcessGroup(tmp_path / "run", 2, 1, "--data_dir", own, command=ARRAYS) as group:
        assert group.finish(timeout=200) == [2, 2]
        said = [group.log(i) for i in range(2)]
    for process, count in enumerate((36, 27)):
        assert f"see different data (process {process}: own{process}.npz" in said[process], said[process]
        assert f"train {count}" in said[process] and "must hold the same files for all of them" in said[process]
        assert "Traceback" not in said[process]
    assert not (tmp_path / "run").exists()
