"""The network on an accelerator: speed beside PyTorch's, share of the card's peak, largest batch, profile.

Command: python -m experiments.benchmarks.accelerator [--batches 8] [--out FOLDER]
It takes under 10 minutes on one card, and writes accelerator.md and accelerator.json.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.benchmarks.side_by_side import OURS, Options, check_torch, compete, share_weights, torch_builders
from experiments.benchmarks.timing import Contender, Subject, note
from experiments.benchmarks.workload import Workload, config_of
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.files import write_atomically
from sgma_jax.flags import parse_process

VARIANTS = ("torch eager cheap channels_last", "torch compile cheap channels_last")
"""PyTorch's contenders: the form that is fastest there, eager and compiled."""
KERNELS = 40
"""Kernels of a profile that are kept."""
PRODUCT = 8192
"""Side of the matrices whose product says what the card reaches."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Options of the benchmark; the defaults are PVT-v2-b2 on images of 512 x 512 with three sensors, in bfloat16."""

    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b2"
    """Variant of PVT-v2."""
    size: int = 512
    """Side of the images, in pixels."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the computation."""
    batches: tuple[int, ...] = (8,)
    """Samples in a batch, one after the other."""
    largest: int = 64
    """Batches are doubled up to this one to find the largest that trains."""
    only: tuple[str, ...] = VARIANTS
    """Names of the PyTorch variants to run."""
    against: Literal["nothing", "torch"] = "torch"
    """Opponent; "nothing" leaves PyTorch out."""
    out: Path = Path()
    """Folder for accelerator.md and accelerator.json."""


def card(workload: Workload) -> Subject:
    """Return the card's name and what it reaches: bfloat16 products a second, and bytes copied a second."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    if device.platform == "cpu":
        return Subject(lambda case: None, {"answer": [], "platform": "cpu"}, lambda: None)
    x, y = (jax.random.normal(jax.random.key(i), (PRODUCT, PRODUCT), jnp.bfloat16) for i in range(2))
    flops = 2 * PRODUCT**3 / _seconds(jax.jit(jnp.matmul), x, y)
    big = jax.random.normal(jax.random.key(2), (2**28,), jnp.float32)
    copied = 2 * big.nbytes / _seconds(jax.jit(lambda a: a + 1.0), big)
    facts = {"platform": device.platform, "card": device.device_kind, "flops": flops, "bytes": copied}
    return Subject(lambda case: None, {"answer": [], **facts}, lambda: None)


def _seconds(f: Any, *arguments: Any, repeats: int = 10) -> float:
    import jax

    jax.block_until_ready(f(*arguments))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def multiply_adds(workload: Workload) -> Subject:
    """Return the multiply-adds of one image forward, as `sgma inspect` counts them; on the CPU, where it is exact."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from sgma_jax.models.inspection import inspect_model

    costs = inspect_model(config_of(workload), workload.size)
    return Subject(lambda case: None, {"answer": [], **costs["total"]}, lambda: None)


def measure(arguments: Arguments) -> dict[str, Any]:
    """Return all figures; InputError where there is no accelerator."""
    found = Contender("card", card, arguments)
    facts = found.facts
    found.close()
    if facts["platform"] == "cpu":
        raise InputError(
            "JAX sees no accelerator; install sgma_jax with jax[cuda13] or jax[tpu] on a machine with one."
        )
    result: dict[str, Any] = {"card": facts, "driver": driver(), "runs": []}
    counted = Contender("multiply-adds", multiply_adds, arguments)
    result["image"] = {k: counted.facts[k] for k in ("parameters", "multiply_adds")}
    counted.close()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        share_weights(arguments, folder)
        for batch in arguments.batches:
            options = dataclasses.replace(arguments, batch=batch)
            for what in ("training", "inference"):
                result["runs"].append({"what": what, "batch": batch, **_compete(options, what, folder)})
                _write(arguments.out, result)  # what is known stays if the next does not end
        profile = Contender("profile", profiled, dataclasses.replace(arguments, batch=arguments.batches[0]), folder)
        result["profile"] = {k: v for k, v in profile.facts.items() if k != "answer"}
        profile.close()
        _write(arguments.out, result)
        result["largest"] = _largest(arguments, folder)
        _write(arguments.out, result)
    return result


def driver() -> str:
    """Return the card and its driver as nvidia-smi names them; empty where there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _compete(options: Arguments, what: str, folder: Path) -> dict[str, Any]:
    from experiments.benchmarks import ours

    case = "step" if what == "training" else "+".join(config_of(options).data.modalities)
    builders: dict[str, tuple[Any, ...]] = {OURS: (getattr(ours, what), options, folder)}
    if options.against == "torch":
        from experiments.torch_baseline import contenders

        variants = contenders.TRAINING_VARIANTS if what == "training" else contenders.INFERENCE_VARIANTS
        builders |= torch_builders(options, folder, variants, getattr(contenders, what))
    note(f"{what}, batch {options.batch}")
    return compete(options, builders, case)


def _largest(arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Return the largest batch of a doubling series that our training step fits, and its speed."""
    from experiments.benchmarks import ours

    best: dict[str, Any] = {}
    batch = max(arguments.batches)
    while (batch := batch * 2) <= arguments.largest:
        note(f"does a batch of {batch} fit?")
        options = dataclasses.replace(arguments, batch=batch, repeats=3)
        try:
            result = compete(options, {OURS: (ours.training, options, folder)}, "step")
        except InputError as error:
            return {**best, "did_not_fit": batch, "because": str(error)[:200]}
        best = {"batch": batch, **result["variants"][OURS]}
    return best


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    flops = 2 * result["image"]["multiply_adds"]
    card = result["card"]
    reached = f"{card['flops'] / 1e12:.0f} TFLOP/s in a bfloat16 product of {PRODUCT} x {PRODUCT}"
    lines = [
        f"{card['card']} ({result['driver']}): {reached}, {card['bytes'] / 1e12:.2f} TB/s copied.",
        "",
        "| what | batch | contender | ms (fastest, slowest) | images/s | share of that FLOP/s | peak memory GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        work = flops * (3 if run["what"] == "training" else 1)  # the gradient costs twice the forward pass
        for name, row in run["variants"].items():
            memory = (row.get("peak_bytes") or {}).get("device") or 0
            share = row["images_per_second"] * work / card["flops"]
            ms, speed = row["ms"], f"{row['images_per_second']:.1f}"
            cells = (run["what"], run["batch"], name, f"{ms['median']} ({ms['min']}, {ms['max']})", speed)
            lines.append(f"| {' | '.join(map(str, cells))} | {share:.1%} | {memory / 1e9:.1f} |")
        lines.append(f"| | | ratio to the best opponent | {run['ratio']} | | | |")
    if profile := result.get("profile"):
        lines += ["", f"{profile['kernels']} kernels, {profile['total_ms']:.1f} ms a step; the dearest:", ""]
        lines += [f"- {milliseconds:.2f} ms {name[:90]}" for name, milliseconds in profile["dearest"][:10]]
    lines += ["", f"Largest batch that trained: {json.dumps(result.get('largest', {}))}"]
    return "\n".join(lines) + "\n"


def profiled(workload: Workload, folder: Path) -> Subject:
    """Return our training step's dearest kernels, in milliseconds a step, from a trace of three steps."""
    import jax

    from experiments.benchmarks import ours

    subject, steps = ours.training(workload, folder), 3
    with tempfile.TemporaryDirectory() as name:
        with jax.profiler.trace(name):
            for _ in range(steps):
                subject.run("step")
        (file,) = Path(name).rglob("*.xplane.pb")
        spent: dict[str, float] = {}
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if "/device:" in plane.name:
                for line in plane.lines:
                    if "Stream" in line.name or line.name == "XLA Ops":
                        for event in line.events:
                            spent[event.name] = spent.get(event.name, 0.0) + event.duration_ns / 1e6 / steps
    dearest = sorted(spent.items(), key=lambda entry: -entry[1])
    facts = {"kernels": len(spent), "total_ms": sum(spent.values()), "dearest": dearest[:KERNELS]}
    return Subject(subject.run, {"answer": [], **facts}, lambda: None)


def _write(folder: Path, result: dict[str, Any]) -> None:
    write_atomically(folder / "accelerator.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(folder / "accelerator.md", table(result).encode())


@one_line_errors
def main() -> None:
    """Measure, write and print."""
    arguments = parse_process(Arguments, "experiments.benchmarks.accelerator")
    if arguments.against == "torch":
        check_torch()
    print(table(measure(arguments)), file=sys.stdout)


if __name__ == "__main__":
    main()
