"""Studies of trained networks: why residual ones work, how sure they may be, what fools them."""

from resjax.analysis.attacks import fgsm, pgd
from resjax.analysis.calibration import Calibration, calibration, fit_temperature, negative_log_likelihoods
from resjax.analysis.connectivity import (
    Channels,
    barrier,
    between,
    exchangeable_channels,
    losses_between,
    match_weights,
    permuted,
    with_statistics_of,
)
from resjax.analysis.curvature import Spectrum, lanczos_spectrum, loss_hessian
from resjax.analysis.depth import (
    block_contributions,
    decay_rate,
    depth_distribution,
    effective_depths,
    norms_by_length,
    paths_behind_each_block,
    predicted_depths,
)
from resjax.analysis.detection import Detection, detection, largest_probability, negative_energy
from resjax.analysis.ensembles import disagreement, majority_vote, smoothness_index, valid_paths
from resjax.analysis.explain import grad_cam, integrated_gradients, occlusion
from resjax.analysis.jacobians import Jacobians, residual_jacobians
from resjax.analysis.landscape import filter_direction, loss_surface, without_noise
from resjax.analysis.lesion import (
    predict_without_blocks,
    predict_without_layers,
    random_lesions,
    removable_layers,
    single_lesions,
    transition_blocks,
)
from resjax.analysis.linearise import count_nonlinearities, predict_linearised
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
from resjax.analysis.probes import pooled_features, ridge_classifier
from resjax.analysis.refinement import Refinement, block_refinement, predict_unrolled
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
from resjax.analysis.similarity import block_similarity, linear_cka, unbiased_hsic
from resjax.analysis.streams import StageMixing, stream_mixing
from resjax.analysis.transfer import LearningRateTransfer, learning_rate_transfer
from resjax.analysis.variants import error_rates, predict

__all__ = [
    "Calibration",
    "Channels",
    "DecayFit",
    "Detection",
    "Jacobians",
    "LearningRateTransfer",
    "RandomNetwork",
    "Refinement",
    "Responses",
    "Spectrum",
    "StageMixing",
    "all_paths",
    "autocorrelation",
    "barrier",
    "between",
    "block_contributions",
    "block_gradient_norms",
    "block_norms",
    "block_refinement",
    "block_similarity",
    "brown_noise",
    "calibration",
    "count_nonlinearities",
    "covariance",
    "data_correlations",
    "decay_rate",
    "depth_distribution",
    "detection",
    "disagreement",
    "effective_depths",
    "effective_lengths",
    "error_rates",
    "exchangeable_blocks",
    "exchangeable_channels",
    "fgsm",
    "filter_direction",
    "fit_decay",
    "fit_temperature",
    "grad_cam",
    "grid_derivatives",
    "input_derivatives",
    "input_gradients",
    "integrated_gradients",
    "kendall_tau",
    "lanczos_spectrum",
    "largest_probability",
    "layer_responses",
    "learning_rate_transfer",
    "linear_cka",
    "loss_hessian",
    "loss_surface",
    "losses_between",
    "majority_vote",
    "match_weights",
    "negative_energy",
    "negative_log_likelihoods",
    "norms_by_length",
    "occlusion",
    "path_gradient_norms",
    "path_length_distribution",
    "paths_behind_each_block",
    "permuted",
    "pgd",
    "pooled_features",
    "predict",
    "predict_linearised",
    "predict_reordered",
    "predict_unrolled",
    "predict_without_blocks",
    "predict_without_layers",
    "predicted_depths",
    "random_lesions",
    "random_paths",
    "removable_layers",
    "residual_jacobians",
    "ridge_classifier",
    "single_lesions",
    "smoothness_index",
    "stream_mixing",
    "swapped_orders",
    "transition_blocks",
    "unbiased_hsic",
    "valid_paths",
    "white_noise",
    "with_statistics_of",
    "without_noise",
]
