"""The typed fields of a run: each is a flag of the command line."""

import dataclasses
import typing
from typing import Any, Literal, Self

import jax.numpy as jnp

from resjax import ConstantScaling, EffectivePaths, Gating, InputError, ShortcutDropout, StochasticDepth
from resjax.data.augment import Augmentation

Order = Literal[
    "original", "bn_after_addition", "relu_before_addition", "relu_only_pre_activation", "full_pre_activation"
]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network; a field at None keeps the network's own default."""

    name: str
    """Name as `resjax.create_model` takes it."""
    stage_sizes: tuple[int, ...] | None = None
    """ResNet: blocks in each stage, for a depth whose name stands for another network."""
    block: Literal["basic", "bottleneck", "single"] | None = None
    """ResNet: two 3x3 convolutions, or 1x1, 3x3, 1x1; pre-activation ResNet also: one 3x3 convolution."""
    shortcut: Literal["A", "B", "C", "average_pool", "none"] | None = None
    """ResNet: shortcut option of He et al. 2015, section 3.3, or average pooling and zero channels, or no addition."""
    order: Order | None = None
    """Pre-activation ResNet: order of BN, ReLU and addition."""
    shortcut_scaling: tuple[float, float] | None = None
    """Pre-activation ResNet: constant factors of shortcut and branch."""
    gating: Literal["exclusive", "shortcut_only"] | None = None
    """Pre-activation ResNet: gates of shortcut and branch, or of the shortcut alone."""
    gate_bias: float | None = None
    """Initial bias of the gates."""
    shortcut_dropout: float | None = None
    """Pre-activation ResNet: share of the shortcut's output that is dropped."""
    block_type: tuple[int, ...] | None = None
    """Wide ResNet: kernel sizes of a block, e.g. 3 1 3."""
    deepening_factor: int | None = None
    """Wide ResNet: 3x3 convolutions in a block."""
    dropout_rate: float | None = None
    """Wide ResNet: dropout between the convolutions of a block; DenseNet: behind every convolution but the first."""
    kernel_init: Literal["he_normal_fan_out", "he_normal_fan_in"] | None = None
    """Initial convolutions: normal, with the variance of He et al. 2015 (arXiv 1502.01852) by outputs or inputs."""
    norm_scale_init: Literal["uniform", "ones"] | None = None
    """Networks with BN: initial scales."""
    width: int | None = None
    """VGG: channels of every convolution."""
    survival_probability: float | None = None
    """Residual networks: stochastic depth with this p_L of the last block, and linear decay."""
    active_blocks: int | None = None
    """Residual networks: train with exactly so many blocks, drawn anew for each mini-batch."""

    norm_scope: Literal["global"] | int | None = None
    """Images that BN normalises together, on any devices: global (the whole batch), or so many consecutive ones."""

    def overrides(self) -> dict[str, Any]:
        """The fields that are set, as arguments of `resjax.create_model`."""
        fields = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        del fields["name"]
        bias = {"bias_init": fields.pop("gate_bias")} if "gate_bias" in fields else {}
        if bias and self.gating is None:
            raise InputError("--model.gate_bias: of --model.gating alone")
        rules = {
            "stochastic_depth": {"survival_probability": StochasticDepth, "active_blocks": EffectivePaths},
            "shortcut_variant": {
                "shortcut_scaling": lambda factors: ConstantScaling(*factors),
                "gating": lambda kind: Gating(kind == "exclusive", **bias),
                "shortcut_dropout": ShortcutDropout,
            },
        }
        for option, made_by in rules.items():
            given = [field for field in made_by if field in fields]
            if len(given) > 1:
                raise InputError(f"{' and '.join(f'--model.{field}' for field in given)}: choose one")
            for field in given:
                fields[option] = made_by[field](fields.pop(field))
        return fields


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum and coupled weight decay."""

    learning_rate: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Weight of the old velocity."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    momentum_form: Literal["torch", "caffe"] = "torch"
    """The velocity sums up gradients, all times the current rate (torch), or steps as they were taken (caffe)."""
    weight_decay: float = 1e-4
    """Added to the gradient as weight_decay * parameter, before momentum."""
    decay: Literal["all", "kernels", "not_biases"] = "all"
    """What decays: all parameters, convolution and linear weights alone, or all but biases (of BN, too)."""
    head_decay_factor: float = 1.0
    """Factor of the weight decay of the classifier."""
    clip_norm: float = 0.0
    """Largest global L2 norm of the gradient; 0 does not clip."""
    reset_momentum: bool = False
    """Set the velocity to zero at each drop of a piecewise schedule."""
    bias_factor: float = 1.0
    """Factor of the learning rate of biases, of BN, too."""
    scale_factor: float = 1.0
    """Factor of the learning rate of BN's scales; 0 leaves them as they are."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over training."""

    kind: Literal["constant", "piecewise", "cosine", "linear", "poly", "one_cycle"] = "piecewise"
    """Shape; all but constant and piecewise stretch over the whole of training."""
    boundaries: tuple[float, ...] = ()
    """Piecewise: completed epochs at which the rate drops, whatever --epochs is."""
    factor: float = 0.1
    """Piecewise: factor of each drop."""
    final: float = 0.0
    """Cosine, linear, poly, one_cycle, cooldown: learning rate at the end."""
    power: float = 0.9
    """Poly: exponent of the share of training that is left."""
    warmup_epochs: float = 0.0
    """Length of the warm-up; one_cycle: of the way up, 0 means 30% of training."""
    warmup_from: float = 0.0
    """Learning rate at the start of the warm-up."""
    warmup: Literal["linear", "constant"] = "linear"
    """Rise to the peak, or stay at warmup_from and jump."""
    warmup_until_error: float = 0.0
    """Stay at warmup_from until the training error in percent has fallen below this; 0: for warmup_epochs."""
    per_epoch: bool = False
    """Hold each epoch's first value through the epoch."""
    cooldown_epochs: float = 0.0
    """Constant, piecewise: so many last epochs fall linearly to the final rate."""


def run_only(default: Any) -> Any:
    """A field that says how to run, not what: it does not make another run of the same workdir."""
    return dataclasses.field(default=default, metadata={"run_only": True})


Scan = Literal["auto", "on", "off"]
InterconnectName = Literal["tpu_v5e", "tpu_v5p", "tpu_v6e", "h100_ndr", "a100_hdr", "ethernet_100g", "ethernet_10g"]
Remat = Literal["none", "convs", "full"]


def form_options(scan: Scan, remat: Remat) -> dict[str, Any]:
    """What `resjax.create_model` takes of how blocks are compiled; nothing where that is a network's own default."""
    options = {} if scan == "auto" else {"scan": scan == "on"}
    return options if remat == "none" else options | {"remat": remat}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What every run has, whatever it trains. The result is a function of the fields that are not run-only."""

    model: ModelConfig
    dataset: str = "cifar10"
    """cifar10, cifar100, cifar10_mini, svhn_cropped, mnist, fashion_mnist."""
    epochs: int = 200
    """Passes over the training images; the incomplete last batch of each is skipped."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    micro_batches: int = 1
    """Parts of a batch that go through the network one after another, for less memory; one update of all."""
    seed: int = 0
    """Seed of the initial parameters, the data order, augmentation and dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype; parameters, BN statistics and logits are float32."""
    average_decay: float = 0.0
    """Decay per step of a moving average of the parameters, which is then evaluated; 0 keeps none."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    eval_batch_size: int = run_only(512)
    """Images in an evaluation step, over all devices."""
    data_dir: str | None = run_only(None)
    """Folder of a prepared TFDS directory or of the official archives; default: TFDS's own."""
    workdir: str | None = run_only(None)
    """Folder for checkpoints, metrics and curves; default: runs/ and a name made of the config and what you changed."""
    resume: Literal["auto", "never", "must"] = run_only("auto")
    """Go on from the workdir's newest checkpoint: if there is one; not (an earlier run is moved aside); or fail."""
    checkpoint_minutes: float = run_only(10.0)
    """Within an epoch, minutes between checkpoints; one is also written at the end of each epoch."""
    scan: Scan = run_only("auto")
    """Residual networks: blocks of one shape as one compiled loop; auto: in deep stages."""
    remat: Remat = run_only("none")
    """Residual networks: what blocks keep for the gradient: all, their convolutions' outputs, their input."""
    shard_state: bool = run_only(False)
    """Each device holds its share alone of parameters and optimizer state: for networks too large for one device."""
    compilation_cache: str = run_only("auto")
    """Folder of compiled programs, so that the next start is faster; auto: in the user's cache folder; off: none."""
    coordinator: str | None = run_only(None)
    """HOST:PORT of process 0 in a run of several processes; TPU pods, GKE, SLURM and Open MPI say it themselves."""
    num_processes: int | None = run_only(None)
    """How many processes there are; with --coordinator."""
    process_id: int | None = run_only(None)
    """Which of them this is, from 0; with --coordinator."""
    tensorboard: bool = run_only(False)
    """Also write TensorBoard event files."""
    scaling_report: bool = run_only(False)
    """Print step time and efficiency predicted for 1 to 4096 chips, each with --batch_size images; train nothing."""
    interconnect: InterconnectName = run_only("tpu_v5e")
    """What joins the chips in --scaling_report."""
    dry_run: bool = run_only(False)
    """Print parameters, FLOPs, memory, learning rates and steps, and train nothing."""

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, flat: {"optimizer.momentum": 0.9, ...}."""
        return self._fields(run_only=False)

    def run_options(self) -> dict[str, Any]:
        """The fields that only say how to run."""
        return self._fields(run_only=True)

    def resolved(self, name: str) -> dict[str, Any]:
        """What config.json holds of a run of the named config `name`."""
        return {"name": name, "config": self.identity(), "run_options": self.run_options()}

    def model_options(self) -> dict[str, Any]:
        """What `resjax.create_model` takes beside the name and the number of classes."""
        return self.model.overrides() | {"dtype": jnp.dtype(self.dtype)} | form_options(self.scan, self.remat)

    @classmethod
    def from_identity(cls, fields: dict[str, Any]) -> Self:
        """The config that `identity` or `run_options` wrote, flat or nested; all other fields at their default.

        Raises:
          InputError: for a field that no config has.
        """
        return _build(cls, flatten(fields))

    def _fields(self, run_only: bool) -> dict[str, Any]:
        metadata = {field.name: field.metadata for field in dataclasses.fields(self)}
        flat = flatten(dataclasses.asdict(self))
        return {k: v for k, v in flat.items() if metadata[k.split(".")[0]].get("run_only", False) == run_only}


Normalizer = Literal[
    "mean_std", "cifar10_mean_std", "per_pixel_mean", "per_pixel_mean_std", "gcn", "gcn_mean", "gcn_zca", "scale_256"
]


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """An image-classification run. The result is a function of these fields."""

    normalization: Normalizer = "mean_std"
    """Published mean and std per channel, of the data set or of CIFAR-10; the mean training image subtracted, and
    divided by the std of all its pixels; each image's contrast normalised; the mean of those subtracted; and
    ZCA-whitened; pixel values divided by 256."""
    extra: bool = False
    """Train on the data set's easier `extra` images, too (SVHN)."""
    validation_images: int = 0
    """Training images to choose an epoch by and not to train on; the error reported is then that epoch's."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    augmentation: Augmentation = Augmentation()
    seeds: int = run_only(1)
    """Train so many seeds, --seed and those that follow it, together; each has a run of its own in the workdir."""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; tuples become lists, as JSON keeps them."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _build(cls: type, flat: dict[str, Any]) -> Any:
    """The reverse of `flatten(dataclasses.asdict(..))`."""
    values, unknown = {}, set(flat)
    for field, kind in typing.get_type_hints(cls).items():
        inner = {key.removeprefix(f"{field}."): value for key, value in flat.items() if key.startswith(f"{field}.")}
        if dataclasses.is_dataclass(kind) and inner:
            values[field] = _build(kind, inner)
            unknown -= {f"{field}.{key}" for key in inner}
        elif field in flat:
            values[field] = tuple(flat[field]) if isinstance(flat[field], list) else flat[field]
            unknown.discard(field)
    if unknown:
        raise InputError(f"{cls.__name__}: has no field {', '.join(map(repr, sorted(unknown)))}")
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}") from None
