"""A side of the benchmark that cannot be measured says why, and its process ends."""

import multiprocessing

import pytest

from experiments.benchmarks.workers import MeasurementError, Worker


def test_a_side_that_cannot_be_built_says_why():
    with pytest.raises(MeasurementError, match="TypeError: .*'colour'"):
        Worker(multiprocessing.get_context("spawn"), "resjax", {"colour": "red"})


def test_a_process_that_ends_without_an_answer_is_said():
    worker = object.__new__(Worker)
    worker._pipe, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(MeasurementError, match="its process ended without an answer"):
        worker.peak_memory()
