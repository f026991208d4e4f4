"""Training: state, step, compiled loop, optimizer, schedules, sharding, checkpoints."""

from resjax.train.checkpoint import CheckpointError, Checkpoints, Restored, read_arrays, read_variables
from resjax.train.classification import classification, make_eval_step
from resjax.train.crops import make_crops_eval_step, predict_crops, top_classification
from resjax.train.fine_tuning import layer_depths, train_only, trained_parameters
from resjax.train.loop import (
    epoch_order,
    make_evaluate_batch,
    make_run_batch,
    make_run_evaluation,
    make_run_steps,
    put_resident,
)
from resjax.train.metrics import NO_FAILURE, PixelTotals, Sums, TopTotals, Totals, check_labels
from resjax.train.optimizers import (
    OPTIMIZERS,
    adamw,
    kernels,
    lamb,
    lars,
    learning_rate_factors,
    muon,
    not_biases,
    sgd,
)
from resjax.train.probes import LinearProbe, fit_linear_probe, nearest_neighbours
from resjax.train.schedules import SCHEDULES, learning_rate_schedule
from resjax.train.seeds import join_seeds, make_evaluate_seeds, make_run_seeds, seed_mesh, split_seeds
from resjax.train.segmentation import (
    IGNORED,
    confusion_matrix,
    make_segmentation_eval_step,
    mine_hard_pixels,
    pixel_cross_entropy,
    predict_probabilities,
    segmentation,
)
from resjax.train.sharding import (
    batch_sharding,
    check_batch_size,
    data_mesh,
    own_rows,
    put_batch,
    put_whole,
    replicated,
    same_everywhere,
    state_sharding,
    wait_for_processes,
)
from resjax.train.state import Objective, TrainState, create_state, init_key, is_finite
from resjax.train.step import make_train_step
from resjax.train.warmup import learning_rate_factor, warm_up_until
from resjax.train.wrappers import lookahead, sharpness_aware, slow_params

__all__ = [
    "IGNORED",
    "LinearProbe",
    "NO_FAILURE",
    "OPTIMIZERS",
    "SCHEDULES",
    "CheckpointError",
    "Checkpoints",
    "Objective",
    "PixelTotals",
    "Restored",
    "Sums",
    "TopTotals",
    "Totals",
    "TrainState",
    "adamw",
    "batch_sharding",
    "check_batch_size",
    "check_labels",
    "classification",
    "confusion_matrix",
    "create_state",
    "data_mesh",
    "epoch_order",
    "fit_linear_probe",
    "init_key",
    "is_finite",
    "join_seeds",
    "kernels",
    "lamb",
    "lars",
    "layer_depths",
    "learning_rate_factor",
    "learning_rate_factors",
    "learning_rate_schedule",
    "lookahead",
    "make_crops_eval_step",
    "make_eval_step",
    "make_evaluate_batch",
    "make_evaluate_seeds",
    "make_run_batch",
    "make_run_evaluation",
    "make_run_seeds",
    "make_run_steps",
    "make_segmentation_eval_step",
    "make_train_step",
    "mine_hard_pixels",
    "muon",
    "nearest_neighbours",
    "not_biases",
    "own_rows",
    "pixel_cross_entropy",
    "predict_crops",
    "predict_probabilities",
    "put_batch",
    "put_resident",
    "put_whole",
    "read_arrays",
    "read_variables",
    "replicated",
    "same_everywhere",
    "seed_mesh",
    "segmentation",
    "sgd",
    "sharpness_aware",
    "slow_params",
    "split_seeds",
    "state_sharding",
    "top_classification",
    "train_only",
    "trained_parameters",
    "wait_for_processes",
    "warm_up_until",
]
