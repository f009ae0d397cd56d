"""Parts that train_step and inference share: options, the list of contenders, and the report."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.benchmarks.timing import Contender, contenders, note, relative_difference, summary, take_turns
from experiments.benchmarks.workload import Workload
from sgma_jax.errors import InputError

OURS = "ours"
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative difference of the answers above which the contenders do not compute the same thing."""


@dataclass(frozen=True, kw_only=True)
class Options(Workload):
    """Options of the benchmark. Needs PyTorch only with `--against torch`."""

    against: Literal["nothing", "torch"] = "nothing"
    """Opponent."""
    only: tuple[str, ...] = ()
    """Names of the PyTorch variants to run; by default all."""
    repeats: int = 7
    """Timed runs of each contender, in turn."""
    json: bool = False
    """Print JSON instead of a table."""


def torch_builders(options: Options, folder: Path, variants: Sequence[Any], build: Any) -> dict[str, tuple[Any, ...]]:
    """PyTorch's contenders: name -> (build, workload, folder, variant)."""
    names = [v.name for v in variants]
    if unknown := [name for name in options.only if name not in names]:
        raise InputError(f"--only: no variant {unknown[0]!r}; there are: {', '.join(names)}.")
    return {v.name: (build, options, folder, v) for v in variants if not options.only or v.name in options.only}


def check_torch() -> None:
    """InputError where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("--against torch needs PyTorch; install it with `pip install torch==2.13.0`.")


def share_weights(workload: Workload, folder: Path) -> None:
    """Draw the weights once, in a process of their own that then ends."""
    from experiments.benchmarks.ours import write_weights  # here, so that PyTorch's processes do not load JAX

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the accelerator
    note("drawing the weights")
    Contender("weights", write_weights, workload, folder).close()


def compete(
    options: Options, builders: Mapping[str, tuple[Any, ...]], case: str, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure all contenders on a case, then ours and PyTorch's best on the `further` ones; the result as JSON has
    it.

    `ratio` is our images per second over those of PyTorch's fastest variant. Raises InputError where the answers
    differ.
    """
    load = os.getloadavg()[0]  # of the last minute: tells a reader whether the machine had other work
    with contenders(builders) as (running, failed):
        if OURS not in running:
            raise InputError(failed[OURS])
        if failed and len(running) == 1:
            raise InputError(f"no opponent could be built: {'; '.join(failed.values())}")
        difference = relative_difference({name: c.facts["answer"] for name, c in running.items()})
        if not difference <= TOLERANCE[options.dtype]:
            answers = "; ".join(f"{name} {c.facts['answer']}" for name, c in running.items())
            raise InputError(
                f"the contenders do not compute the same thing (relative difference {difference:.1e}): {answers}"
            )
        times = take_turns(list(running.values()), case, options.repeats)
        figures = {name: summary(seconds, options.batch) for name, seconds in times.items()}
        for name, contender in running.items():
            figures[name] |= {
                "peak_bytes": contender.peak_memory(),
                **{k: v for k, v in contender.facts.items() if k != "answer"},
            }
        opponents = [name for name in running if name != OURS]
        best = max(opponents, key=lambda name: figures[name]["images_per_second"]) if opponents else None
        result: dict[str, Any] = {
            "ratio": _ratio(figures, best),
            "best_opponent": best,
            "workload": {k: v for k, v in asdict(options).items() if k in Workload.__dataclass_fields__},
            "repeats": options.repeats,
            "spread": "fastest and slowest run",
            "memory": "peak after the warm-up: resident set of the contender's whole process; bytes in use on the "
            "accelerator",
            "machine": {
                "processor": platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "python": platform.python_version(),
            },
            "load_average": {"before": load, "after": os.getloadavg()[0]},
            "relative_difference": difference,
            "variants": figures,
            "failed": failed,
        }
        if further:
            pair = [c for name, c in running.items() if name in (OURS, best)]
            result["cases"] = {}
            for other in further:
                note(f"measuring {other}")
                rows = {name: summary(s, options.batch) for name, s in take_turns(pair, other, options.repeats).items()}
                result["cases"][other] = {"ratio": _ratio(rows, best), **rows}
        return result


def _ratio(figures: Mapping[str, dict[str, Any]], best: str | None) -> float | None:
    return round(figures[OURS]["images_per_second"] / figures[best]["images_per_second"], 3) if best else None


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """JSON, or lines for people."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, row in result["variants"].items():
        ms, memory = row["ms"], {k: f"{v / 2**20:.0f} MiB" for k, v in row["peak_bytes"].items() if v}
        compiled = next(
            (f", {key} {row[key]}" for key in ("compile_s", "first_step_s", "first_call_s") if key in row), ""
        )
        print(
            f"{name:36} {row['images_per_second']:8.2f} images/s  {ms['median']:9.1f} ms ({ms['min']:.1f} to "
            f"{ms['max']:.1f})  {memory}{compiled}"
        )
    for name, error in result["failed"].items():
        print(f"{name:36} failed: {error}")
    for case, row in result.get("cases", {}).items():
        figures = ", ".join(f"{name} {r['images_per_second']:.2f}" for name, r in row.items() if name != "ratio")
        print(f"{case:36} ratio {row['ratio']}: {figures} images/s")
    if result["best_opponent"]:
        print(f"ratio: {result['ratio']} (ours over {result['best_opponent']})")
