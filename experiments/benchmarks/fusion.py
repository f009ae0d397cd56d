"""Semantic-guided fusion at four scales: the paper's naive form against ours, as classes and sensors grow.

Command: python -m experiments.benchmarks.fusion [--classes 2 5 25 64] [--sensors 2 3 6] [--size 512] [--json]
Milliseconds of both in turn, multiply-adds (the compiler's count of floating-point operations, halved) and peak
            temporary memory of the
compiled programs; forward, and with all gradients. Both forms use our depthwise convolution, so that only the forms
            differ.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments.benchmarks.naive_fusion import NaiveFusion
from experiments.benchmarks.timing import note, summary
from sgma_jax.config import SemanticGuidedFusionConfig
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process
from sgma_jax.models.encoders.pvt_v2 import STRIDES, VARIANTS
from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion
from sgma_jax.models.layers import depthwise


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    classes: tuple[int, ...] = (2, 5, 25, 64)
    """Numbers of classes K, measured with 3 sensors."""
    sensors: tuple[int, ...] = (2, 6)
    """Numbers of sensors M, measured with 5 classes."""
    size: int = 512
    """Side of the image, in pixels."""
    variant: str = "b2"
    """Variant of PVT-v2, for the channels of the four scales."""
    repeats: int = 3
    """Timed runs of each program, in turn."""
    json: bool = False
    """Print JSON instead of lines."""


def programs(classes: int, sensors: int, options: Options) -> tuple[dict[tuple[str, str], Any], tuple[Any, ...]]:
    """Compiled programs by (form, direction), and their arguments."""
    modalities = tuple(f"sensor{i}" for i in range(sensors))
    scales: list[tuple[SemanticGuidedFusion, tuple[int, ...]]] = []
    side = options.size
    for stride, channels in zip(STRIDES, VARIANTS[options.variant].channels, strict=True):
        side //= stride
        fusion = SemanticGuidedFusion(SemanticGuidedFusionConfig(), modalities, classes, jnp.dtype("float32"))
        scales.append((fusion, (1, sensors, side, side, channels)))
    features = [jax.random.normal(jax.random.key(i), shape) for i, (_, shape) in enumerate(scales)]
    available = [jnp.ones(shape[:4], bool) for _, shape in scales]
    shapes = [
        jax.eval_shape(f.init, jax.random.key(0), x, a)["params"]
        for (f, _), x, a in zip(scales, features, available, strict=True)
    ]
    params = jax.tree.map(lambda s: 0.1 * jax.random.normal(jax.random.key(sum(s.shape)), s.shape), shapes)

    def ours(params: Any, features: list[Array]) -> list[Any]:
        results: list[Any] = [
            f.apply({"params": p}, x, a) for (f, _), p, x, a in zip(scales, params, features, available, strict=True)
        ]
        return [(r.features, r.robustness) for r in results]

    def naive(params: Any, features: list[Array]) -> list[Any]:
        def convolve(x: Array, kernel: Array) -> Array:
            return depthwise(x[None], kernel[:, :, 0])[0]

        return [
            NaiveFusion(modalities, f.heads(x.shape[-1]), convolve=convolve)(p, x, a)
            for (f, _), p, x, a in zip(scales, params, features, available, strict=True)
        ]

    def with_gradients(form: Any) -> Any:
        def total(params: Any, features: list[Array]) -> Array:
            return sum(
                (
                    jnp.square(fused).sum() + jnp.square(robustness).sum()
                    for fused, robustness in form(params, features)
                ),
                jnp.zeros(()),
            )

        return jax.grad(total, (0, 1))

    compiled = {}
    for name, form in (("naive", naive), ("ours", ours)):
        for direction, function in (("forward", form), ("gradient", with_gradients(form))):
            note(f"K={classes} M={sensors}: compiling {name} {direction}")
            compiled[name, direction] = jax.jit(function).lower(params, features).compile()
    return compiled, (params, features)


def measure(classes: int, sensors: int, options: Options) -> dict[str, Any]:
    """Figures of both forms in both directions, and naive over ours."""
    compiled, arguments = programs(classes, sensors, options)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in compiled}
    for repeat in range(options.repeats + 1):  # in turn; the first round warms up
        for key, program in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if repeat:
                times[key].append(time.perf_counter() - began)
    row: dict[str, Any] = {"classes": classes, "sensors": sensors}
    for (name, direction), program in compiled.items():
        costs: Any = program.cost_analysis()
        row[f"{name}/{direction}"] = {
            "ms": summary(times[name, direction], 1)["ms"],
            "gmac": round(costs["flops"] / 2e9, 3),
            "temporary_mib": round(program.memory_analysis().temp_size_in_bytes / 2**20, 1),
        }
    for direction in ("forward", "gradient"):
        naive, ours = row[f"naive/{direction}"], row[f"ours/{direction}"]
        row[f"naive over ours/{direction}"] = {
            "time": round(naive["ms"]["median"] / ours["ms"]["median"], 2),
            "gmac": round(naive["gmac"] / ours["gmac"], 2),
            "temporary": round(naive["temporary_mib"] / ours["temporary_mib"], 2),
        }
    return row


@one_line_errors
def main() -> None:
    """Measure and print."""
    options = parse_process(Options, "experiments.benchmarks.fusion")
    if options.variant not in VARIANTS or options.size % 32 or options.size < 32:
        raise InputError(f"--variant is one of {', '.join(VARIANTS)}, and --size a multiple of 32.")
    cases = [(k, 3) for k in options.classes] + [(5, m) for m in options.sensors]
    rows = []
    for classes, sensors in cases:
        rows.append(measure(classes, sensors, options))
        jax.clear_caches()
    if options.json:
        print(
            json.dumps(
                {
                    "device": jax.devices()[0].device_kind,
                    "machine": platform.machine(),
                    "jax": jax.__version__,
                    "size": options.size,
                    "variant": options.variant,
                    "spread": "fastest and slowest run",
                    "cases": rows,
                },
                indent=2,
            )
        )
        return
    for row in rows:
        print(f"K={row['classes']} M={row['sensors']}")
        for key, value in row.items():
            if "/" in key and not key.startswith("naive over"):
                ms = value["ms"]
                print(
                    f"  {key:16} {ms['median']:9.1f} ms ({ms['min']:.1f} to {ms['max']:.1f})  {value['gmac']:8.2f} G "
                    f"multiply-adds"
                    f"  {value['temporary_mib']:9.1f} MiB"
                )
        for direction in ("forward", "gradient"):
            print(f"  naive over ours, {direction}: {row[f'naive over ours/{direction}']}")


if __name__ == "__main__":
    main()
