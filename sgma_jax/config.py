"""Every choice of a run, as frozen dataclasses. Standard library only.

A preset (`experiments/*.py`) is a Python file with `config = TrainConfig(...)`. Kinds (which encoder, which fusion,
MAS or not) are chosen there; numbers can be changed on the command line. Tags as in docs/method.md: [P] stated by
the paper (arXiv 2603.02505), [D] derived from it, [C] our choice where it is silent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sgma_jax.decoding import decode, upgraded
from sgma_jax.errors import InputError
from sgma_jax.kinds import ConcatenationFusionConfig as ConcatenationFusionConfig
from sgma_jax.kinds import CrossEntropyConfig as CrossEntropyConfig
from sgma_jax.kinds import EncoderConfig as EncoderConfig
from sgma_jax.kinds import FocalLossConfig as FocalLossConfig
from sgma_jax.kinds import FusionConfig as FusionConfig
from sgma_jax.kinds import FusionTokenConfig as FusionTokenConfig
from sgma_jax.kinds import LossConfig as LossConfig
from sgma_jax.kinds import MeanFusionConfig as MeanFusionConfig
from sgma_jax.kinds import PlainConfig as PlainConfig
from sgma_jax.kinds import PvtV2Config as PvtV2Config
from sgma_jax.kinds import RankedSelectionFusionConfig as RankedSelectionFusionConfig
from sgma_jax.kinds import ResNetConfig as ResNetConfig
from sgma_jax.kinds import SemanticGuidedFusionConfig as SemanticGuidedFusionConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data that is read, and how training samples are made from it."""

    path: str = ""
    """Folder that a converter of `data_prep` wrote."""
    modalities: tuple[str, ...]
    """Sensors that the model sees, in the order of its tables; the converted set must have them all."""
    bands: tuple[int, ...]
    """Bands of each sensor, in the same order."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their codes 0, 1, 2, ..."""
    crop: int = 512
    """Side of a random training crop, in pixels."""
    batch_size: int = 16
    """Training samples in a global batch, over all devices and hosts."""
    evaluation_batch_size: int = 8
    """Tiles in a global batch of evaluation."""
    modality_dropout: float = 0.5
    """[C] Probability that a sample keeps a random non-empty subset of its sensors instead of all."""
    augment: bool = True
    """[C] Random horizontal and vertical flips and quarter turns; one draw for all sensors and the label."""
    workers: int = 0
    """Extra processes that prepare batches on each host; 0 prepares them in threads of the training process."""
    on_bad_record: Literal["stop", "skip"] = "stop"
    """[C] Act on a record that cannot be read: end the training, or train without it. Evaluation always ends."""
    max_bad_records: int = 100
    """[C] Most records that are skipped before training ends after all."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Stem -> shared encoder -> fusion at four scales -> head."""

    encoder: EncoderConfig = field(default_factory=PvtV2Config)
    """Encoder that all sensors share [P]."""
    pretrained: str = ""
    """File of the encoder's first weights, as `sgma weights import` writes it; empty for random ones."""
    fusion: FusionConfig = field(default_factory=SemanticGuidedFusionConfig)
    """How the sensors' features become one map."""
    stem: Literal["replicate", "linear"] = "replicate"
    """[C] How a sensor with other than 3 bands becomes 3: "replicate" repeats one band, "linear" learns a 1x1
    projection."""
    magnify: int = 1
    """[C] Factor by which images are enlarged before the encoder, for scenes whose objects span few pixels."""
    head_width: int = 256
    """[C] Channels of SegFormer's all-MLP head."""
    head_dropout: float = 0.1
    """[C] Dropout before the classifier, as SegFormer has it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, softmaxes, statistics and losses stay float32."""
    remat: bool = False
    """[C] Keep for the gradient only what enters the encoder's blocks and the fusions, and compute the rest again:
    less memory, more time."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """MAS: which sensor of a sample is trained alone, drawn by inverted robustness [P]."""

    decay: float = 0.9
    """[C] Decay of the table's exponential moving average, per update."""
    floor: float = 1e-3
    """[C] Smallest robustness before it is inverted."""
    granularity: Literal["global", "sample"] = "global"
    """[C] One row of the table per scale, or one per training record and scale."""
    lag: int = 1
    """[C] Steps by which the table is late: the draw for step t knows the results of the steps before t - lag."""
    loss_weight: float = 1.0
    """[P] Weight of the branch's cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and polynomial decay [P, section IV-B]."""

    peak_learning_rate: float = 6e-5
    """[P] Learning rate after the warm-up."""
    weight_decay: float = 1e-2
    """[P] Decoupled weight decay, applied to kernels only ([C]: not to biases and norms, as PVT-v2's recipe has it)."""
    epsilon: float = 1e-8
    """[P] Adam's epsilon."""
    decay_power: float = 0.9
    """[P] Power of the polynomial decay to zero."""
    warmup_start: float = 0.1
    """[C] Learning rate at the first step, as a fraction of the peak."""
    clip_norm: float = 1.0
    """[C] Largest global norm of the gradient; larger ones are scaled down to it."""
    fused_loss_weight: float = 2.0
    """[P] Weight of the fused branch's cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One experiment, whole."""

    name: str
    """Short name of the experiment."""
    data: DataConfig
    """The data set, and how it is read."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    sampling: SamplingConfig | None = field(default_factory=SamplingConfig)
    """Modality-aware sampling, or None for training without its branch."""
    loss: LossConfig = field(default_factory=CrossEntropyConfig)
    """Loss of every labelled pixel."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser and its learning rate."""
    steps: int
    """Optimiser steps of the whole run (the paper trains 200 epochs [P]: 200 x records / batch size)."""
    warmup_steps: int = 0
    """Steps of linear warm-up (the paper's 10 epochs [P])."""
    evaluate_every: int = 1000
    """Steps between checkpoints, each of which is scored on the validation split."""
    validate: bool = True
    """Score every checkpoint on the validation split. Turn it off for a data set that was converted without one."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk."""
    keep_every: int = 0
    """Checkpoints of steps that this divides stay for ever; 0 keeps none for that."""
    keep_best: int = 1
    """[C] Checkpoints with the best average mIoU on the validation split that stay, too."""
    storage: str = ""
    """Folder for the checkpoints, and copies of the run's small files, if not the run's own: gs://BUCKET/RUN where
    machines may be lost."""
    max_bad_steps: int = 10
    """[C] Steps in a row whose loss or gradient may be NaN or infinite, and which are therefore not applied, before
    training ends."""
    fsdp: int = 1
    """Devices over which parameters and optimiser state are sharded; the others replicate."""
    space: int = 1
    """Devices that share the image rows of a sample, for crops that are too large for one."""
    accumulate: int = 1
    """[C] Micro-batches that a step computes one after the other. Gradients add up; batch normalisation sees one
    micro-batch at a time."""
    seed: int = 0
    """Everything random derives from it."""


VERSION = 1
"""Of config.json; the next one begins when a field is renamed or moved, with its step in MIGRATIONS."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def to_json(config: Any) -> str:
    """Return the configuration as JSON; where a field could be of several kinds, `kind` names the class."""
    return json.dumps({"version": VERSION, **_encode(config)}, indent=2) + "\n"


def from_json(text: str, cls: type = TrainConfig) -> Any:
    """Return the configuration that this or an earlier version wrote.

    Missing fields take their defaults. Unknown and mistyped fields, and a newer version, raise InputError.
    """
    way_out = "Restore the file, use the version of sgma_jax that wrote it, or train into a new folder."
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error}). {way_out}") from error
    try:
        return decode(upgraded(value, VERSION, MIGRATIONS) if isinstance(value, dict) else value, cls)
    except InputError as error:
        raise InputError(f"{error} {way_out}") from error


MAY_CHANGE = {
    *(
        "data.path",
        "data.workers",
        "data.evaluation_batch_size",
        "data.on_bad_record",
        "data.max_bad_records",
        "max_bad_steps",
    ),
    *("evaluate_every", "validate", "log_every", "keep_checkpoints", "keep_every", "keep_best"),
    *("fsdp", "space", "model.remat"),
}
"""Fields that may differ between a run and its continuation: where the data now lies, how often things are looked
at, and where things are computed. None of them says what is learnt."""


def differences(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configurations differ."""
    if type(left) is not type(right) or not dataclasses.is_dataclass(left):
        return [] if left == right else [prefix]
    names = (f.name for f in dataclasses.fields(left))
    return [
        d for n in names for d in differences(getattr(left, n), getattr(right, n), f"{prefix}.{n}" if prefix else n)
    ]


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [_encode(v) for v in value] if isinstance(value, tuple) else value
