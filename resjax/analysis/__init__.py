"""Why residual networks work: the experiments that explained them, as functions over any trained network.

Each returns arrays; `python -m experiments.analyse` draws them.
"""

from resjax.analysis.depth import (
    block_contributions,
    decay_rate,
    depth_distribution,
    effective_depths,
    norms_by_length,
    paths_behind_each_block,
    predicted_depths,
)
from resjax.analysis.ensembles import disagreement, majority_vote, smoothness_index, valid_paths
from resjax.analysis.lesion import (
    predict_without_blocks,
    predict_without_layers,
    random_lesions,
    removable_layers,
    single_lesions,
    transition_blocks,
)
from resjax.analysis.paths import (
    all_paths,
    block_gradient_norms,
    block_norms,
    effective_lengths,
    input_gradients,
    path_gradient_norms,
    path_length_distribution,
    random_paths,
)
from resjax.analysis.reorder import exchangeable_blocks, kendall_tau, predict_reordered, swapped_orders
from resjax.analysis.responses import Responses, layer_responses
from resjax.analysis.shattered import (
    DecayFit,
    RandomNetwork,
    autocorrelation,
    brown_noise,
    covariance,
    data_correlations,
    fit_decay,
    grid_derivatives,
    input_derivatives,
    white_noise,
)
from resjax.analysis.variants import error_rates, predict

__all__ = [
    "DecayFit",
    "RandomNetwork",
    "Responses",
    "all_paths",
    "autocorrelation",
    "block_contributions",
    "block_gradient_norms",
    "block_norms",
    "brown_noise",
    "covariance",
    "data_correlations",
    "decay_rate",
    "depth_distribution",
    "disagreement",
    "effective_depths",
    "effective_lengths",
    "error_rates",
    "exchangeable_blocks",
    "fit_decay",
    "grid_derivatives",
    "input_derivatives",
    "input_gradients",
    "kendall_tau",
    "layer_responses",
    "majority_vote",
    "norms_by_length",
    "path_gradient_norms",
    "path_length_distribution",
    "paths_behind_each_block",
    "predict",
    "predict_reordered",
    "predict_without_blocks",
    "predict_without_layers",
    "predicted_depths",
    "random_lesions",
    "random_paths",
    "removable_layers",
    "single_lesions",
    "smoothness_index",
    "swapped_orders",
    "transition_blocks",
    "valid_paths",
    "white_noise",
]
