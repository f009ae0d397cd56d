"""A run's network as a function of a batch of windows, the same bytes for any batch size and any number of devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sgma_jax.availability import STRIDES, refine
from sgma_jax.errors import InputError
from sgma_jax.models.network import Sgma, make_model
from sgma_jax.prediction.options import Robustness
from sgma_jax.prediction.windows import ONE, Answers, Labels
from sgma_jax.runs.run import Run
from sgma_jax.sharding import make_mesh

TOGETHER = 4
"""[C] Windows that an accelerator computes at once; a CPU computes one, which keeps it in its caches."""


def check_modalities(run: Run, names: Sequence[str]) -> tuple[str, ...]:
    """Return the sensors in the run's order; InputError where one is unknown or none is named."""
    known = run.config.data.modalities
    for name in names:
        if name not in known:
            raise InputError(
                f"--sensor {name}: {run.folder} was not trained on it; its sensors are {', '.join(known)}."
            )
    if not names:
        raise InputError(f"no sensor is given; give at least one of {', '.join(known)}, as --sensor {known[0]}=FILE.")
    if len(known) > 16:
        raise InputError(f"{run.folder} has {len(known)} sensors; prediction keeps track of 16 at most.")
    return tuple(name for name in known if name in names)


def windows_of(
    run: Run, modalities: tuple[str, ...], window: int, batch: int, robustness: Robustness = "none"
) -> SgmaWindows:
    """Return a run's network for these sensors and windows of this side, the same for all who ask."""
    key = ("windows", modalities, window, batch, robustness)
    return run.program(key, lambda: SgmaWindows(run, modalities, window, batch, robustness))


def _variables(run: Run) -> dict[str, Any]:
    """The run's variables on each of this host's devices.

    Raises InputError where schema.json, whose statistics normalise the sensors, is not the checkpoint's.
    """
    if run.restored.manifest_hash != run.schema.manifest_hash:
        raise InputError(
            f"{run.folder}: schema.json is not of the data set that the checkpoint was trained on; restore the file "
            f"that belongs to it."
        )
    everywhere = NamedSharding(make_mesh(1, devices=jax.local_devices()), PartitionSpec())
    placed: dict[str, Any] = jax.device_put(jax.device_get(run.restored.variables), everywhere)
    return placed


class SgmaWindows:
    """The network of a run for some of its sensors: a `WindowModel`.

    Every window is computed by itself, in a loop on its device, so that no sum depends on what else is in the batch.
    """

    def __init__(
        self, run: Run, modalities: Sequence[str], window: int, batch: int, robustness: Robustness = "none"
    ) -> None:
        devices = jax.local_devices()
        together = 1 if devices[0].platform == "cpu" else TOGETHER
        step = together * len(devices)
        self.window, self.batch = window, -(-batch // step) * step
        schema, names = run.schema.schema, check_modalities(run, modalities)
        self.labels = Labels(
            modalities=schema.select(names).modalities,
            bits=tuple(schema.names.index(name) for name in names),
            classes=schema.classes,
            palette=schema.palette,
            layers=robustness_layers(names, robustness),
        )
        self._variables = run.program("variables of the windows", lambda: _variables(run))
        self.identity = {
            "run": run.folder.resolve().name,
            "step": run.restored.step,
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

    def __call__(self, images: dict[str, np.ndarray], available: np.ndarray) -> Answers:
        """Answers, still being computed."""
        answers: Answers = self._answer(self._variables, *jax.device_put((images, available), self._place))
        return answers


def robustness_layers(modalities: Sequence[str], robustness: Robustness) -> tuple[str, ...]:
    """Names of the layers that are asked for: per sensor its mean, or its four scales from the finest."""
    if robustness == "none":
        return ()
    suffixes = [""] if robustness == "mean" else [f" stride {stride}" for stride in STRIDES]
    return tuple(f"robustness {name}{suffix}" for name in modalities for suffix in suffixes)


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
        """Return the value of a coarse map at every pixel, per modality."""
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
