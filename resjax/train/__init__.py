"""Training: state, step, compiled loop, optimizer, schedules, sharding, checkpoints."""

from resjax.train.checkpoint import CheckpointError, Checkpoints, Restored, read_variables
from resjax.train.loop import epoch_order, make_run_evaluation, make_run_steps, put_resident
from resjax.train.metrics import NO_FAILURE, Totals
from resjax.train.optimizers import kernels, sgd
from resjax.train.schedules import SCHEDULES, learning_rate_schedule
from resjax.train.sharding import batch_sharding, check_batch_size, data_mesh, replicated
from resjax.train.state import TrainState, create_state
from resjax.train.step import make_eval_step, make_train_step

__all__ = [
    "NO_FAILURE",
    "SCHEDULES",
    "CheckpointError",
    "Checkpoints",
    "Restored",
    "Totals",
    "TrainState",
    "batch_sharding",
    "check_batch_size",
    "create_state",
    "data_mesh",
    "epoch_order",
    "kernels",
    "learning_rate_schedule",
    "make_eval_step",
    "make_run_evaluation",
    "make_run_steps",
    "make_train_step",
    "put_resident",
    "read_variables",
    "replicated",
    "sgd",
]
