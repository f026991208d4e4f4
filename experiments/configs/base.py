"""The typed fields of a run: each is a flag of the command line."""

import dataclasses
import typing
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from experiments.configs.earlier import fields_of_today
from experiments.configs.model import ModelConfig, as_lists, as_tuples
from resjax.data.augment import Augmentation
from resjax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from flax import linen as nn

_ADAM = {"b1": 0.9, "b2": 0.999}
_SGD = {"momentum": 0.9, "nesterov": False}
OPTIMIZER_KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 1e-4, **_SGD, "momentum_form": "torch", "reset_momentum": False},
    # Adam's rate (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1); the rest is optax's.
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-4, **_ADAM, "eps": 1e-8},
    # optax's, which leaves the rate open: here twice that of AdamW. The authors' code leaves BN and biases out.
    "lamb": {"learning_rate": 2e-3, "weight_decay": 0.0, **_ADAM, "eps": 1e-6, "trust_ratio": "kernels"},
    # Likewise; a rate of 1 gives a kernel whose norm is a hundred times its gradient's the rate 0.1 of SGD.
    "lars": {
        **{"learning_rate": 1.0, "weight_decay": 0.0, **_SGD},
        **{"trust_coefficient": 0.001, "trust_ratio": "kernels", "eps": 0.0},
    },
    # Of https://github.com/KellerJordan/Muon: 0.02 for Muon and 3e-4 for Adam.
    "muon": {
        **{"learning_rate": 0.02, "weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "newton_schulz_steps": 5},
        **{"adam_factor": 0.015, "b1": 0.9, "b2": 0.95, "eps": 1e-10},
    },
}
"""Kinds of optimizers: the fields that each has, with their defaults; functions of the same names make them."""

_UNSET: Any = None  # the kind's own default


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates: fields of every kind, and fields of some, which the others do not have.

    Raises:
      InputError: for a field that the kind does not have; it says which kinds have it.
    """

    kind: Literal["sgd", "adamw", "lamb", "lars", "muon"] = "sgd"
    """Another kind than the config's starts from its own defaults: learning rate (with it warmup_from and final of the
    schedule, in proportion), weight decay and all fields of that kind."""
    learning_rate: float = _UNSET
    """Peak learning rate; default: sgd 0.1, adamw 0.001, lamb 0.002, lars 1, muon 0.02."""
    momentum: float | None = _UNSET
    """sgd, lars, muon: weight of the old velocity; default: 0.9, muon 0.95."""
    nesterov: bool = _UNSET
    """sgd, lars, muon: Nesterov's form of momentum; the default of muon."""
    momentum_form: Literal["torch", "caffe"] | None = _UNSET
    """sgd: the velocity sums up gradients, all times the current rate (torch, the default), or steps as they were taken
    (caffe; always so in lars)."""
    weight_decay: float = _UNSET
    """Times the parameter. sgd, lars: coupled, added to the gradient before momentum (lars: and before the trust
    ratio). adamw, muon: decoupled, added to the direction, times the learning rate. lamb: decoupled from the averages,
    but before the trust ratio. Default: sgd, adamw 0.0001, lamb, lars 0, muon 0.01."""
    decay: Literal["all", "kernels", "not_biases"] = "all"
    """What decays: all parameters, convolution and linear weights alone, or all but biases (of BN, too)."""
    layer_decay: float = 1.0
    """Factor of the learning rate of each stage for the stage before it; the head has the whole rate."""
    head_decay_factor: float = 1.0
    """Factor of the weight decay of the classifier."""
    clip_norm: float = 0.0
    """Largest global L2 norm of the gradient; 0 does not clip."""
    reset_momentum: bool = _UNSET
    """sgd: set the velocity to zero at each drop of a piecewise schedule."""
    bias_factor: float = 1.0
    """Factor of the learning rate of biases, of BN, too."""
    scale_factor: float = 1.0
    """Factor of the learning rate of BN's scales, and of trained factors of branches; 0 leaves them as they are."""
    b1: float | None = _UNSET
    """adamw, lamb, muon (of its Adam): weight of the old average of the gradient; default: 0.9."""
    b2: float | None = _UNSET
    """adamw, lamb, muon (of its Adam): weight of the old average of its square; default: 0.999, muon 0.95."""
    eps: float | None = _UNSET
    """adamw, lamb, muon (of its Adam): added to the root of that average; lars: to the gradient's norm in the trust
    ratio; default: adamw 1e-8, lamb 1e-6, lars 0, muon 1e-10."""
    trust_ratio: Literal["all", "kernels", "not_biases"] | None = _UNSET
    """lamb, lars: parameters whose step is scaled by the norm of the layer over that of its step; default: kernels."""
    trust_coefficient: float | None = _UNSET
    """lars: factor of the trust ratio; default: 0.001."""
    newton_schulz_steps: int | None = _UNSET
    """muon: steps of the iteration that makes the velocity of each convolution, as a matrix [height * width * inputs,
    outputs], nearly orthogonal; default: 5."""
    adam_factor: float | None = _UNSET
    """muon: learning rate of Adam, which trains the head, BN and biases, over that of Muon; default: 0.015."""
    sam_rho: float = 0.0
    """Every kind: sharpness-aware minimization, the gradient is that at the point so far uphill, in L2 norm, which
    takes two passes a step (the paper: 0.05); 0: the usual gradient."""
    lookahead_period: int = 0
    """Every kind: lookahead; after so many steps slow parameters, which are those evaluated, go a part of the way to
    the trained ones, and these return to them (the paper: 5); 0: none."""
    lookahead_step_size: float | None = _UNSET
    """Lookahead: that part of the way; default: 0.5."""

    def __post_init__(self):
        if self.kind not in OPTIMIZER_KINDS:
            raise unknown_name("kind of optimizer", self.kind, OPTIMIZER_KINDS)
        own = OPTIMIZER_KINDS[self.kind] | ({"lookahead_step_size": 0.5} if self.lookahead_period else {})
        for field in dataclasses.fields(self):
            value, absent = getattr(self, field.name), False if field.type is bool else None
            if value is None:
                object.__setattr__(self, field.name, own.get(field.name, absent))
            elif field.default is None and field.name not in own and value is not absent:
                kinds = [kind for kind, fields in OPTIMIZER_KINDS.items() if field.name in fields]
                having = f"--optimizer.kind {' or '.join(kinds)}" if kinds else "a --optimizer.lookahead_period > 0"
                missing = f"{self.kind} has no such field" if kinds else "there is no lookahead"
                raise InputError(f"--optimizer.{field.name}: {missing}; it is of {having}")

    def with_kind(self, kind: str) -> Self:
        """The same with the defaults of another kind, and what every kind has but learning rate and weight decay."""
        common = [field.name for field in dataclasses.fields(self) if field.default is not None]
        kept = {name: getattr(self, name) for name in [*common, "lookahead_step_size"]}
        return type(self)(**kept | {"kind": kind})


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning-rate schedule."""

    kind: Literal["constant", "piecewise", "cosine", "linear", "poly", "one_cycle"] = "piecewise"
    """Schedule shape. cosine, linear, poly and one_cycle span the whole run."""
    boundaries: tuple[float, ...] = ()
    """Piecewise: epochs after which the rate drops; they do not scale with --epochs."""
    factor: float = 0.1
    """Piecewise: factor of the rate at each drop."""
    final: float = 0.0
    """Cosine, linear, poly, one_cycle, cooldown: final learning rate."""
    power: float = 0.9
    """Poly: exponent of the remaining fraction of training."""
    warmup_epochs: float = 0.0
    """Epochs of warm-up. one_cycle: epochs up to the peak; 0 means 30% of training."""
    warmup_from: float = 0.0
    """Learning rate at the start of the warm-up."""
    warmup: Literal["linear", "constant"] = "linear"
    """linear: rise to the peak; constant: stay at warmup_from, then jump to the peak."""
    warmup_until_error: float = 0.0
    """Stay at warmup_from until the training error in percent falls below this value; 0: for warmup_epochs."""
    per_epoch: bool = False
    """Change the rate only between epochs: each epoch keeps its first value."""
    cooldown_epochs: float = 0.0
    """Constant, piecewise: number of last epochs in which the rate falls linearly to the final rate."""


def run_only(default: Any) -> Any:
    """A field that says how to run, not what to run. Changing it does not make another run of the same workdir."""
    return dataclasses.field(default=default, metadata={"run_only": True})


Scan = Literal["auto", "on", "off"]
InterconnectName = Literal["tpu_v5e", "tpu_v5p", "tpu_v6e", "h100_ndr", "a100_hdr", "ethernet_100g", "ethernet_10g"]
Remat = Literal["none", "convs", "full"]


def form_options(scan: Scan, remat: Remat) -> dict[str, Any]:
    """Arguments of `resjax.create_model` for how blocks are compiled; without the ones at the network's default."""
    options = {} if scan == "auto" else {"scan": scan == "on"}
    return options if remat == "none" else options | {"remat": remat}


FINE_TUNING: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 32,
    "optimizer": OptimizerConfig("adamw", learning_rate=5e-3, weight_decay=1e-2, decay="kernels", layer_decay=0.2),
    "schedule": ScheduleConfig(kind="one_cycle"),
}
"""How the `finetune` recipes train: our own choice, for hundreds to thousands of images."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The fields of every run. The result is a function of the fields that are not run-only.

    Attributes:
      PROGRAM: the command that trains runs of this kind.
    """

    PROGRAM: ClassVar[str] = ""
    model: ModelConfig
    dataset: str = "cifar10"
    """cifar10, cifar100, cifar10_mini, svhn_cropped, mnist, fashion_mnist; arrays: your own images and labels, as an
    .npz file, .npy files, IDX files or STL-10's binaries in --data_dir."""
    epochs: int = 200
    """Passes over the training images; each skips its incomplete last batch."""
    batch_size: int = 128
    """Images in a step, over all devices."""
    micro_batches: int = 1
    """Parts of a batch that run one after another to save memory; they give one update."""
    seed: int = 0
    """Seed of the initial parameters, the data order, augmentation and dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype; parameters, BN statistics and logits are float32."""
    average_decay: float = 0.0
    """Decay per step of a moving average of the parameters, which is then evaluated; 0: no average."""
    pretrained: str | None = None
    """Weights to start from: a name of resjax.list_pretrained(), also of timm, torchvision or the hub; a folder of
    resjax.save_pretrained; or a .safetensors or .pth file. Their classifier is replaced by a new one."""
    weights_key: str | None = None
    """Of a file of --pretrained with several weights, raw and averaged ones: the key of those to take."""
    freeze: str = "none"
    """What of --pretrained stays as it is. trunk: all but the new head; augmentation is then off unless flags turn it
    on, and the trunk is computed once for each image. stages:2: the stem and the first two stages."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    eval_batch_size: int = run_only(512)
    """Images in an evaluation step, over all devices."""
    data_dir: str | None = run_only(None)
    """Folder of a prepared TFDS directory or of the official archives; default: TFDS's own. For arrays: FILE or DIR."""
    workdir: str | None = run_only(None)
    """Folder for checkpoints, metrics and curves; default: runs/ and a name made of the config and your changes."""
    resume: Literal["auto", "never", "must"] = run_only("auto")
    """auto: resume from the workdir's newest checkpoint, if any; must: fail without one; never: move an earlier run
    aside."""
    checkpoint_minutes: float = run_only(10.0)
    """Minutes between checkpoints within an epoch; the end of each epoch also writes one."""
    keep_every: int = run_only(0)
    """Keep the checkpoint of every N-th epoch, as `experiments.audit` needs them; 0: only the last two checkpoints."""
    scan: Scan = run_only("auto")
    """Residual networks: compile blocks of one shape as one loop; auto: in deep stages."""
    remat: Remat = run_only("none")
    """Residual networks: what blocks keep for the backward pass. none: everything; convs: the outputs of their
    convolutions; full: their input."""
    shard_state: bool = run_only(False)
    """Split parameters and optimizer state over the devices, for networks too large for one device."""
    compilation_cache: str = run_only("auto")
    """Folder of compiled programs, for a faster next start; auto: in the user's cache folder; off: none."""
    coordinator: str | None = run_only(None)
    """HOST:PORT of process 0 in a run of several processes; TPU pods, GKE, SLURM and Open MPI provide it."""
    num_processes: int | None = run_only(None)
    """Number of processes; with --coordinator."""
    process_id: int | None = run_only(None)
    """Index of this process, from 0; with --coordinator."""
    gradient_metrics: tuple[Literal["first_layer_gradient"], ...] = run_only(())
    """Additional metrics of each epoch. first_layer_gradient is for `experiments.analyse stochastic_depth`."""
    tracker: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = run_only(())
    """Also give each epoch's values to these programs; tensorboard writes event files into the workdir."""
    scaling_report: bool = run_only(False)
    """Predict step time and efficiency on 1 to 4096 chips, each with --batch_size images; train nothing."""
    interconnect: InterconnectName = run_only("tpu_v5e")
    """The interconnect of the chips in --scaling_report."""
    dry_run: bool = run_only(False)
    """Print parameters, FLOPs, memory, learning rates and steps; train nothing."""
    target: str | None = run_only(None)
    """Compile the training step for a machine that is not here, e.g. h200, h200:8, tpu_v5e:4x4 or tpu_v5p:2x2x2, and
    print its memory, FLOPs, traffic and collectives; train nothing."""
    fit: bool = run_only(False)
    """With --target: also look for the largest batch that fits, and try --remat, --micro_batches and --shard_state."""
    # Fields of some configs: of seeds that can train together, of a head's own rate, of classifiers.
    seeds: ClassVar[int] = 1
    head_factor: ClassVar[float] = 1.0
    linear_probe: ClassVar[bool] = False
    knn: ClassVar[bool] = False

    @property
    def augments(self) -> bool:
        """Whether an image looks different to the network each time it is trained on."""
        return True

    @property
    def has_frozen_statistics(self) -> bool:
        """Whether BN normalises by the running statistics in training, too, as pretrained networks need it."""
        return bool(self.model.get("frozen_statistics"))

    def without_augmentation(self) -> Self:
        """The same run on images as they are evaluated."""
        return self

    def on_network(self, model: ModelConfig, size: tuple[int, int] | None, crop: float) -> Self:
        """The same recipe for the network of `--pretrained`, and its input.

        Args:
          model: the network.
          size: height and width of its images; None if they may have any.
          crop: fraction of an image's side that it sees in evaluation.
        """
        return self

    def following(self, recipe: "RunConfig", given: Collection[str]) -> tuple[Self, str]:
        """The config with the fields that follow another one which was given, and a line that says so; "" for none."""
        return self, ""

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, flat: {"optimizer.momentum": 0.9, ...}."""
        return self._fields(run_only=False)

    def run_options(self) -> dict[str, Any]:
        """The fields that only say how to run."""
        return self._fields(run_only=True)

    def resolved(self, name: str) -> dict[str, Any]:
        """The contents of config.json for a run of the named config `name`."""
        said = {"program": self.PROGRAM, "name": name}
        return said | {"config": self.identity(), "run_options": self.run_options()}

    def model_options(self) -> dict[str, Any]:
        """Arguments of `resjax.create_model` besides the name and the number of classes."""
        # float32 is the default of every network; some networks have no other dtype.
        import jax.numpy as jnp

        dtype = {} if self.dtype == "float32" else {"dtype": jnp.dtype(self.dtype)}
        return self.model.overrides() | dtype | form_options(self.scan, self.remat)

    def create_model(self, num_classes: int) -> "nn.Module":
        """Creates the network."""
        from resjax import create_model

        return create_model(self.model.name, num_classes=num_classes, **self.model_options())

    @classmethod
    def from_identity(cls, fields: dict[str, Any]) -> Self:
        """The config that `identity` or `run_options` wrote, flat or nested. Other fields are at their default.

        Raises:
          InputError: for an unknown field.
        """
        return _build(cls, fields_of_today(flatten(fields)))

    def _fields(self, run_only: bool) -> dict[str, Any]:
        metadata = {field.name: field.metadata for field in dataclasses.fields(self)}
        model = {"model": self.model.identity()}
        flat = flatten(dataclasses.asdict(dataclasses.replace(self, model=None)) | model)
        return {k: v for k, v in flat.items() if metadata[k.split(".")[0]].get("run_only", False) == run_only}


Normalizer = Literal[
    "mean_std",
    "cifar10_mean_std",
    "per_pixel_mean",
    "per_pixel_mean_std",
    "gcn",
    "gcn_mean",
    "gcn_zca",
    "scale_256",
    "weights",
]


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """An image-classification run. The result is a function of these fields."""

    PROGRAM = "python -m experiments.cifar"
    normalization: Normalizer = "mean_std"
    """Normalisation of images. mean_std: published mean and std per channel; cifar10_mean_std: CIFAR-10's mean and std,
    for any dataset; per_pixel_mean: the mean training image is subtracted; per_pixel_mean_std: then divided by the std
    of all pixels; gcn: the contrast of each image is normalised; gcn_mean: then the mean image is subtracted; gcn_zca:
    then ZCA-whitened; scale_256: pixel values divided by 256; weights: resized and normalised as --pretrained
    asks for."""
    extra: bool = False
    """SVHN: also train on the easier `extra` images."""
    validation_images: int = 0
    """Number of training images to hold out. The epoch with the lowest error on them is reported; 0: the last epoch."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread over all classes."""
    augmentation: Augmentation = Augmentation()
    seeds: int = run_only(1)
    """Number of seeds to train together, from --seed on; each has its own run in the workdir."""
    linear_probe: bool = run_only(False)
    """Print the error of a linear classifier on the features of --pretrained; train nothing."""
    knn: bool = run_only(False)
    """Print the error of the nearest neighbours among the features of --pretrained; train nothing."""

    @property
    def augments(self) -> bool:
        return self.augmentation != Augmentation(0, flip=False)

    def without_augmentation(self) -> Self:
        return dataclasses.replace(self, augmentation=Augmentation(0, flip=False))

    def on_network(self, model: ModelConfig, size: tuple[int, int] | None, crop: float) -> Self:
        return dataclasses.replace(self, model=model, normalization="weights")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries, with keys joined by dots. Tuples become lists, as in JSON."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = as_lists(value)
    return flat


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that has a float; an integer beyond 1e300 may have none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _build(cls: type, flat: dict[str, Any]) -> Any:
    """The inverse of `flatten(dataclasses.asdict(..))`."""
    values, unknown = {}, set(flat)
    for field, kind in typing.get_type_hints(cls).items():
        inner = {key.removeprefix(f"{field}."): value for key, value in flat.items() if key.startswith(f"{field}.")}
        if inner and isinstance(kind, type) and issubclass(kind, ModelConfig):
            values[field] = kind(**inner).checked()
            unknown -= {f"{field}.{key}" for key in inner}
        elif dataclasses.is_dataclass(kind) and inner:
            values[field] = _build(kind, inner)
            unknown -= {f"{field}.{key}" for key in inner}
        elif field in flat:
            values[field] = as_tuples(flat[field])
            unknown.discard(field)
    if unknown:
        raise InputError(f"{cls.__name__}: has no field {', '.join(map(repr, sorted(unknown)))}")
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}") from None
