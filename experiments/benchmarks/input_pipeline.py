"""Records per second of the input pipeline with 0, 1 and 2 workers, against what our training step consumes.

Command: python -m experiments.benchmarks.input_pipeline [--data DATA] [--size 128] [--batch 8] [--json]
Without --data a synthetic city is converted first, into a temporary folder.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.synthetic import Options as CityOptions
from data_prep.synthetic import convert_city
from experiments.benchmarks import ours
from experiments.benchmarks.side_by_side import share_weights
from experiments.benchmarks.timing import Subject, contenders, note
from experiments.benchmarks.workload import Workload
from sgma_jax.config import DataConfig
from sgma_jax.data.pipeline import open_split, training_batches
from sgma_jax.data.source import open_source
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process


@dataclass(frozen=True, kw_only=True)
class Options(Workload):
    """Options of the benchmark. `size` is the crop; the step is timed with that many sensors as the data set has."""

    data: str = ""
    """Converted data set to read; empty converts a synthetic city."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes to measure."""
    batches: int = 20
    """Batches of one timing."""
    repeats: int = 3
    """Timings of each number of workers, in turn; also timed training steps."""
    json: bool = False
    """Print JSON instead of lines."""


def pipeline(config: DataConfig, batches: int) -> Subject:
    """A run reads `batches` batches; the first one, which starts the workers, is not timed."""
    iterator = training_batches(config, open_split(config, "train"), seed=0)
    next(iterator)

    def run(case: str) -> None:
        for _ in range(batches):
            next(iterator)

    return Subject(run, {}, lambda: None)


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """Records per second for each number of workers and of the training step, and their ratio."""
    path = options.data
    if not path:
        path = str(folder / "city")
        convert_city(CityOptions(out=Path(path), size=2 * options.size, train=32, validation=1, test=1))
    schema = open_source(path, "train").schema
    config = DataConfig(
        path=path,
        modalities=tuple(m.name for m in schema.modalities),
        bands=tuple(m.bands for m in schema.modalities),
        classes=schema.classes,
        crop=options.size,
        batch_size=options.batch,
    )
    options = replace(options, sensors=len(schema.modalities), classes=len(schema.classes))
    share_weights(options, folder)
    builders = {f"{n} workers": (pipeline, replace(config, workers=n), options.batches) for n in options.workers}
    step = "training step"
    with contenders(builders | {step: (ours.training, options, folder)}) as (running, failed):
        if failed:
            raise InputError("; ".join(failed.values()))
        times: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(options.repeats):
            for name, contender in running.items():
                times[name].append(contender.seconds(""))
    rates = {}
    for name, seconds in times.items():
        records = options.batch * (1 if name == step else options.batches)
        median, slowest, fastest = (round(records / f(seconds), 1) for f in (statistics.median, max, min))
        rates[name] = {"records_per_second": median, "min": slowest, "max": fastest}
    best = max(r["records_per_second"] for name, r in rates.items() if name != step)
    return {
        "ratio": round(best / rates[step]["records_per_second"], 2),
        "rates": rates,
        "tile": schema.tile,
        "crop": options.size,
        "batch": options.batch,
    }


@one_line_errors
def main() -> None:
    """Measure and print."""
    options = parse_process(Options, "experiments.benchmarks.input_pipeline")
    with tempfile.TemporaryDirectory() as name:
        note("with prefetching, a timing holds what is ready already; more --batches make that small")
        result = measure(options, Path(name))
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, rate in result["rates"].items():
        print(f"{name:16} {rate['records_per_second']:9.1f} records/s ({rate['min']:.1f} to {rate['max']:.1f})")
    print(f"ratio: {result['ratio']} (the fastest pipeline over the training step)")


if __name__ == "__main__":
    main()
