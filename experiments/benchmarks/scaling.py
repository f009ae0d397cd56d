"""Weak scaling, modelled: what the compiled training step sends, counted for few devices, and what that costs on
many.

Command: python -m experiments.benchmarks.scaling [--variant b2] [--fsdp 1] [--json]

Counted: the collectives of the step compiled for 2 to 64 simulated devices, and their bytes. Computed from that: their
            bytes on up to 4,096
devices, their time by the laws of rings and tori over stated links, and the efficiency for stated times of computing.
            No clock is read.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process

SMALL = 32
"""Side of the images in pixels. Parameters, gradients and statistics have their size whatever the images', so the
smallest will do."""
PROGRAM = "import sys; from experiments.benchmarks.scaling import count; count(*sys.argv[1:])"
OPTIONS = "--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    variant: Literal["b0", "b1", "b2", "b3", "b4", "b5"] = "b2"
    """Variant of PVT-v2; the paper's is b2."""
    fsdp: int = 1
    """Devices over which parameters and optimiser state are sharded."""
    counted: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Numbers of simulated devices to compile for."""
    computed: tuple[int, ...] = (64, 256, 1024, 4096)
    """Numbers of devices to compute the cost for."""
    step_ms: tuple[float, ...] = (50.0, 200.0, 800.0)
    """Times that a device computes in a step, in milliseconds: assumptions, so give what you measure on yours."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class Link:
    """Connection between the devices of a kind of machine."""

    name: str
    source: str
    bytes_per_second: float
    """Out of one device, all of its links together."""
    near: int = 1
    """Devices that are connected faster, and share what leaves the group."""
    near_bytes_per_second: float = 0.0
    torus: bool = False
    """A ring along each of three dimensions; else a tree of switches."""
    hop_seconds: float = 1e-6
    """From one device, or switch, to the next. [C] No vendor states it."""

    def seconds(self, kind: str, size: float, devices: int) -> float:
        """Time of one collective over whole arrays of `size` bytes: what goes through a device's links, and the hops
        one after another."""
        rounds = 2 if kind == "all-reduce" else 1  # an all-reduce is a reduce-scatter and an all-gather
        bandwidth = self.near_bytes_per_second if devices <= self.near else self.bytes_per_second
        hops = 3 * (devices ** (1 / 3) - 1) if self.torus else math.log2(devices)
        return rounds * ((devices - 1) / devices * size / bandwidth + hops * self.hop_seconds)


NVIDIA = (
    "NVIDIA DGX H100: NVLink with 900 GB/s a GPU in both directions among 8, one port of 400 Gb/s a GPU between them"
)
GOOGLE = "cloud.google.com/tpu/docs/v5p: 1200 GB/s a chip in both directions, 3D torus, slices of up to 6144 chips"
LINKS = (
    Link("TPU v5p", GOOGLE, 600e9, torus=True),
    Link("H100, InfiniBand NDR", NVIDIA, 50e9, near=8, near_bytes_per_second=450e9, hop_seconds=5e-6),
)


def count(variant: str, fsdp: str) -> None:
    """Print the collectives of the step compiled for all devices of this process, as JSON: [kind, devices in a
    group, arrays, whole bytes]."""
    import jax

    from experiments.benchmarks.collectives import collectives
    from experiments.benchmarks.workload import Workload, batch_of, config_of
    from sgma_jax.sharding import make_mesh
    from sgma_jax.training.step import make_train_step, state_initializer

    workload = Workload(variant=variant, batch=jax.device_count(), size=SMALL)  # type: ignore[arg-type]
    mesh = make_mesh(int(fsdp))
    _, shapes = state_initializer(config_of(workload), mesh)
    step: Any = make_train_step(config_of(workload), mesh, shapes)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_of(workload))
    found = collectives(step.lower(shapes, batch).compile().as_text())
    print(json.dumps([(c.kind, c.group, c.times * len(c.shapes), c.times, c.times * c.whole_bytes) for c in found]))


def counted(options: Options, devices: int) -> list[dict[str, Any]]:
    """Return the traffic of the step compiled for so many devices, by kind and by who takes part."""
    environment = {**os.environ, "XLA_FLAGS": OPTIONS.format(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, options.variant, str(options.fsdp)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"compiling for {devices} devices failed:\n{done.stderr[-2000:]}")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, group, arrays, times, size in json.loads(done.stdout.splitlines()[-1]):
        over = among(kind, group, devices, options.fsdp)
        row = rows.setdefault((kind, over), {"kind": kind, "over": over, "collectives": 0, "arrays": 0, "bytes": 0})
        row["collectives"] += times
        row["arrays"] += arrays
        row["bytes"] += size
    return list(rows.values())


def among(kind: str, group: int, devices: int, fsdp: int) -> str:
    """The part of the mesh that a collective of so many devices runs over: "fsdp", "data" (those that hold the same
    shard) or "all"."""
    if group == devices:
        return "all"
    return "fsdp" if group == fsdp and kind != "all-reduce" else "data"


def law(rows: dict[int, dict[str, Any]]) -> tuple[float, float]:
    """The bytes of one kind of collective as a + b x devices, from the two largest counts; RuntimeError where
    another count disagrees."""
    sizes = sorted(rows)[-2:]
    slope = (rows[sizes[1]]["bytes"] - rows[sizes[0]]["bytes"]) / (sizes[1] - sizes[0])
    start = rows[sizes[0]]["bytes"] - slope * sizes[0]
    for devices, row in rows.items():
        if abs(start + slope * devices - row["bytes"]) > 1e-6 * row["bytes"]:
            raise RuntimeError(
                f"{row['kind']} over {row['over']} of {devices} devices has {row['bytes']} bytes, off the line of the "
                f"others"
            )
    return start, slope


def report(options: Options) -> dict[str, Any]:
    """Counts, laws and computed efficiencies."""
    measured = {devices: counted(options, devices) for devices in options.counted}
    keys = {(row["kind"], row["over"]) for rows in measured.values() for row in rows}
    series = {
        key: {n: r for n, rows in measured.items() for r in rows if (r["kind"], r["over"]) == key}
        for key in sorted(keys)
    }
    # A kind that only one number of devices has, such as groups that coincide with all devices there, is no series.
    laws = {key: law(rows) for key, rows in series.items() if len(rows) > 1 and max(rows) == max(options.counted)}
    computed = []
    for link in LINKS:
        for devices in options.computed:
            seconds = 0.0
            for (kind, over), (start, slope) in laws.items():
                group = {"all": devices, "fsdp": options.fsdp, "data": devices // options.fsdp}[over]
                number = series[kind, over][max(options.counted)]["collectives"]
                size = start + slope * devices
                seconds += number * link.seconds(kind, size / number, group)
            efficiency = {str(ms): ms / (ms + 1e3 * seconds) for ms in options.step_ms}
            computed.append(
                {"link": link.name, "devices": devices, "communication_ms": 1e3 * seconds, "efficiency": efficiency}
            )
    return {
        "variant": options.variant,
        "fsdp": options.fsdp,
        "counted": {str(n): rows for n, rows in measured.items()},
        "laws": [
            {"kind": k, "over": o, "bytes": start, "bytes_per_device": slope} for (k, o), (start, slope) in laws.items()
        ],
        "links": [{"name": link.name, "source": link.source} for link in LINKS],
        "computed": computed,
    }


@one_line_errors
def main() -> None:
    """Count, compute and print."""
    options = parse_process(Options, "experiments.benchmarks.scaling")
    result = report(options)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"Counted: PVT-v2-{options.variant}, fsdp {options.fsdp}; the step compiled for simulated devices")
    print("devices  kind            over  collectives  arrays        bytes")
    for devices, rows in result["counted"].items():
        for row in rows:
            print(
                f"{devices:>7}  {row['kind']:14}  {row['over']:4}  {row['collectives']:11}  {row['arrays']:6}  "
                f"{row['bytes']:11,}"
            )
    print("\nComputed: nothing overlaps with computing; efficiency = computing / (computing + sending)")
    for link in result["links"]:
        print(f"  {link['name']}: {link['source']}")
    print("link                  devices  sending ms  " + "  ".join(f"step {ms:g} ms" for ms in options.step_ms))
    for row in result["computed"]:
        shares = "  ".join(f"{100 * value:9.1f} %" for value in row["efficiency"].values())
        print(f"{row['link']:20}  {row['devices']:7}  {row['communication_ms']:10.3f}  {shares}")


if __name__ == "__main__":
    main()
