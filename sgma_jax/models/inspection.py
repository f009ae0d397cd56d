"""The cost of a network: parameters and multiply-adds by part, from the compiled programs' own cost analysis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sgma_jax.availability import Availability
from sgma_jax.config import TrainConfig
from sgma_jax.models.cpu import without_loops
from sgma_jax.models.network import Sgma, initial_variables, make_model
from sgma_jax.sharding import make_mesh


def inspect_model(config: TrainConfig, size: int) -> dict[str, Any]:
    """Costs of one forward pass over one image of `size` x `size` pixels with every modality.

    A multiply-add counts as one; the compiler's count of floating-point operations, halved. Each part is compiled on
    its own, in float32, because the compiler counts conversions from and to bfloat16 too.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    model = make_model(config)
    variables, images, mask = _shapes(config, size)

    def available(mask: Any) -> Availability:
        return Availability.of(mask, size, size, config.model.magnify)

    def multiply_adds(method: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
        def run(v: Any, *a: Any) -> Any:
            return model.apply(v, *a, method=method)

        with without_loops():
            compiled = jax.jit(run).lower(variables, *arguments).compile()
        costs: Any = compiled.cost_analysis()
        return round(costs["flops"] / 2), jax.eval_shape(run, variables, *arguments)

    def fused_features(model: Sgma, maps: Any, mask: Any) -> list[Any]:
        return [fused.features for fused in model.fuse(maps, available(mask))]

    stem, stacked = multiply_adds(lambda m, x, a: m.stack(x, available(a)), images, mask)
    encoder, maps = multiply_adds(lambda m, x, a: m.encode(x, available(a), False), stacked, mask)
    fusion, fused = multiply_adds(fused_features, maps, mask)
    seen = jax.ShapeDtypeStruct(fused[0].shape[:3], jnp.bool_)
    head, _ = multiply_adds(lambda m, f, k: m.decode(f, k, size, size, False), fused, seen)

    parts: dict[str, dict[str, int]] = {}
    for part, count in {"stem": stem, "encoder": encoder, "fusion": fusion, "head": head}.items():
        held = [
            leaf.size
            for root, tree in variables["params"].items()
            if root.startswith(part)
            for leaf in jax.tree.leaves(tree)
        ]
        parts[part] = {"parameters": sum(held), "multiply_adds": count}
    total = {key: sum(p[key] for p in parts.values()) for key in ("parameters", "multiply_adds")}
    return {
        "name": config.name,
        "size": size,
        "modalities": list(config.data.modalities),
        "classes": len(config.data.classes),
        "parts": parts,
        "total": total,
    }


class SubsetCosts(NamedTuple):
    """The cost of one image when this many sensors are there."""

    modalities: int
    multiply_adds: int
    """As `inspect_model` counts them."""
    peak_bytes: int
    """Parameters, image, intermediate and output arrays of the compiled program, as the compiler plans them."""
    program: Any
    """The compiled program: (variables, images, available, subset) -> class codes."""


def inspect_subsets(config: TrainConfig, size: int) -> list[SubsetCosts]:
    """Return the costs of one forward pass by the number of sensors present.

    The encoder is shared, so which sensors they are matters to the stem only.
    """
    model = make_model(config)
    variables, images, available = _shapes(config, size)

    def run(v: Any, i: Any, a: Any, subset: Any) -> Any:
        outputs: Any = model.apply(v, i, a, subset=subset)
        return outputs.logits.argmax(-1)

    def compiled() -> Any:
        # As evaluation runs it: on the mesh of one device.
        mesh, whole = make_mesh(1, devices=jax.devices()[:1]), PartitionSpec()
        mapped = jax.shard_map(run, mesh=mesh, in_specs=whole, out_specs=whole)
        return jax.jit(mapped).lower(variables, images, available, present).compile()

    found = []
    for modalities in range(1, len(images) + 1):
        present = jax.ShapeDtypeStruct((modalities,), jnp.int32)
        with without_loops():
            counted: Any = compiled().cost_analysis()
        program = compiled()
        memory: Any = program.memory_analysis()
        planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        found.append(SubsetCosts(modalities, round(counted["flops"] / 2), planned, program))
    return found


def _shapes(config: TrainConfig, size: int) -> tuple[Any, dict[str, Any], Any]:
    """Variables, the images of one sample, and their availability."""
    images = {
        m: jax.ShapeDtypeStruct((1, size, size, b), jnp.float32)
        for m, b in zip(config.data.modalities, config.data.bands, strict=True)
    }
    return (
        jax.eval_shape(lambda: initial_variables(config)),
        images,
        jax.ShapeDtypeStruct((1, len(images), size, size), jnp.bool_),
    )
