"""A run's network as a function of a batch of windows, the same bytes for any batch size and any number of devices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sgma_jax.availability import STRIDES, refine
from sgma_jax.config import TrainConfig
from sgma_jax.errors import InputError
from sgma_jax.models.network import Sgma, initial_variables, make_model
from sgma_jax.prediction.options import Robustness
from sgma_jax.prediction.windows import ONE, Answers, Labels
from sgma_jax.runs.checkpoints import restore_newest_model
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.schema_file import RunSchema, read_run_schema
from sgma_jax.sharding import make_mesh, with_sharding

TOGETHER = 4
"""[C] Windows that an accelerator computes at once; a CPU computes one, which keeps it in its caches."""


class Run:
    """A trained run, read from its folder alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: TrainConfig = read_config(folder)
        self.schema: RunSchema = read_run_schema(folder)
        if (
            self.schema.schema.names != self.config.data.modalities
            or self.schema.schema.classes != self.config.data.classes
        ):
            raise InputError(
                f"{folder}: schema.json and config.json name different sensors or classes; restore the files that "
                f"belong together."
            )

    @functools.cached_property
    def weights(self) -> tuple[int, dict[str, Any]]:
        """Step and variables of the newest checkpoint, read when they are first needed, so that bad arguments are
        told at once."""
        shapes = with_sharding(jax.eval_shape(lambda: initial_variables(self.config)), make_mesh(1))
        step, variables, manifest_hash = restore_newest_model(self.folder, shapes)
        if manifest_hash != self.schema.manifest_hash:
            raise InputError(
                f"{self.folder}: schema.json is not of the data set that the checkpoint was trained on; restore the "
                f"file that belongs to it."
            )
        return step, jax.device_get(variables)

    def check_sensors(self, names: Sequence[str]) -> tuple[str, ...]:
        """The sensors in the run's order; InputError where one is unknown or none is named."""
        known = self.config.data.modalities
        for name in names:
            if name not in known:
                raise InputError(
                    f"--sensor {name}: {self.folder} was not trained on it; its sensors are {', '.join(known)}."
                )
        if not names:
            raise InputError(
                f"no sensor is given; give at least one of {', '.join(known)}, as --sensor {known[0]}=FILE."
            )
        if len(known) > 16:
            raise InputError(f"{self.folder} has {len(known)} sensors; prediction keeps track of 16 at most.")
        return tuple(name for name in known if name in names)

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a run lives as long as its programs)
    def windows(
        self, sensors: tuple[str, ...], window: int, batch: int, robustness: Robustness = "none"
    ) -> SgmaWindows:
        """The network for these sensors and windows of this side; compiled once."""
        return SgmaWindows(self, sensors, window, batch, robustness)


class SgmaWindows:
    """The network of a run for some of its sensors: a `WindowModel`.

    Every window is computed by itself, in a loop on its device, so that no sum depends on what else is in the batch.
    """

    def __init__(
        self, run: Run, sensors: Sequence[str], window: int, batch: int, robustness: Robustness = "none"
    ) -> None:
        devices = jax.local_devices()
        together = 1 if devices[0].platform == "cpu" else TOGETHER
        step = together * len(devices)
        self.window, self.batch = window, -(-batch // step) * step
        schema, names = run.schema.schema, run.check_sensors(sensors)
        self.labels = Labels(
            sensors=schema.select(names).modalities,
            bits=tuple(schema.names.index(name) for name in names),
            classes=schema.classes,
            palette=schema.palette,
            layers=robustness_layers(names, robustness),
        )
        step_trained, variables = run.weights
        self.identity = {
            "run": run.folder.resolve().name,
            "step": step_trained,
            "manifest": run.schema.manifest_hash,
            "window": window,
        }
        model, bits, bands = make_model(run.config), self.labels.bits, run.config.data.bands
        mesh = make_mesh(1, devices=devices)
        whole, split = PartitionSpec(), PartitionSpec("data")

        def answer(variables: Any, images: dict[str, jax.Array], available: jax.Array) -> Answers:
            def some(part: tuple[dict[str, jax.Array], jax.Array]) -> Answers:
                images, available = part
                # Sensors that are not given are skipped; they only have to have a shape.
                size = available.shape[0], *available.shape[2:]
                everything = {
                    m: images[m] if m in images else jnp.zeros((*size, b))
                    for m, b in zip(model.modalities, bands, strict=True)
                }
                return _answers(model, variables, everything, available, bits, robustness)

            parts = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), (images, available))
            return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), jax.lax.map(some, parts))

        self._answer = jax.jit(
            jax.shard_map(answer, mesh=mesh, in_specs=(whole, split, split), out_specs=split, check_vma=False)
        )
        self._place = NamedSharding(mesh, split)
        self._variables = jax.device_put(variables, NamedSharding(mesh, whole))

    def __call__(self, images: dict[str, np.ndarray], available: np.ndarray) -> Answers:
        """Answers, still being computed."""
        answers: Answers = self._answer(self._variables, *jax.device_put((images, available), self._place))
        return answers


def robustness_layers(sensors: Sequence[str], robustness: Robustness) -> tuple[str, ...]:
    """Names of the layers that are asked for: per sensor its mean, or its four scales from the finest."""
    if robustness == "none":
        return ()
    suffixes = [""] if robustness == "mean" else [f" stride {stride}" for stride in STRIDES]
    return tuple(f"robustness {name}{suffix}" for name in sensors for suffix in suffixes)


def _answers(
    model: Sgma,
    variables: Any,
    images: dict[str, jax.Array],
    available: jax.Array,
    bits: tuple[int, ...],
    robustness: Robustness,
) -> Answers:
    batch, _, height, width = available.shape
    mask = jnp.zeros((batch, len(model.modalities), height, width), bool).at[:, jnp.array(bits)].set(available)
    outputs: Any = model.apply(variables, images, mask, subset=jnp.array(bits))
    answered = outputs.answered
    probabilities = jax.nn.softmax(outputs.logits, -1).transpose(0, 3, 1, 2)
    magnify = model.config.magnify

    def pixels(maps: jax.Array, stride: int) -> jax.Array:
        """A coarse map per sensor at every pixel."""
        flat = maps.reshape(-1, *maps.shape[2:])
        return refine(flat, stride, height * magnify, width * magnify)[:, ::magnify, ::magnify].reshape(
            *maps.shape[:2], height, width
        )

    sees = jnp.stack([pixels(s, stride) for s, stride in zip(outputs.sees, STRIDES, strict=True)])
    used = (sees.any(0) & answered[:, None]) * jnp.array([1 << b for b in bits], jnp.uint16)[:, None, None]
    layers = jnp.zeros((batch, 0, height, width), jnp.float32)
    if robustness != "none":
        scales = jnp.stack([pixels(r, stride) for r, stride in zip(outputs.robustness, STRIDES, strict=True)], 2)
        if robustness == "mean":  # over the scales that see something there
            seen = sees.any(2).sum(0)
            layers = scales.sum(2) / jnp.maximum(seen, 1)[:, None]
        else:
            layers = scales.reshape(batch, -1, height, width)

    def sixteen_bits(x: jax.Array) -> jax.Array:
        return jnp.where(answered[:, None], jnp.rint(x * ONE), 0).astype(jnp.uint16)

    return Answers(sixteen_bits(probabilities), sixteen_bits(layers), used.sum(1, dtype=jnp.uint16))
