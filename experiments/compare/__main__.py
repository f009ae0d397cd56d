"""`python -m experiments.compare --data SET --seeds 3 --budget-minutes M`: train, evaluate, compare.
docs/experiments.md says more."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.compare.budget import (
    Budget,
    calibration,
    fix_budget,
    machine,
    read_budget,
    seconds_per_step,
    with_steps,
)
from experiments.compare.members import PRESET_FILE, members, run_member, run_sgma, share
from experiments.compare.methods import METHODS, REFERENCE, chosen_methods
from experiments.compare.summary import summarise
from experiments.compare.tables import markdown
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import TrainConfig, to_json
from sgma_jax.config_check import check
from sgma_jax.data.schema import check_expected, read_manifest
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.files import write_atomically
from sgma_jax.flags import parse_process
from sgma_jax.runs.names import METRICS_FILE
from sgma_jax.runs.results import result_file


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every method under the same budget, score every subset of the sensors, and write the tables."""

    data: Path
    """Converted data set."""
    base: Path = Path("experiments/demo.py")
    """Preset of that data set; its encoder, crops, batches and optimiser are those of every method."""
    out: Path | None = None
    """Folder of the comparison; runs/compare/NAME of the base preset if not given. The same command goes on where it
    stopped, and groups in one folder share their trainings."""
    group: Literal["methods", "paper", "dropout", "fusion", "sampling"] = "methods"
    """Which methods: the baselines; the paper's four rows; modality dropout; variants of SGF; variants of MAS."""
    methods: tuple[str, ...] = ()
    """Methods by name, instead of a group."""
    seeds: int = 3
    """Trainings of each method."""
    budget_minutes: float | None = None
    """Minutes of one training of SGMA, turned into steps once; every method gets as many steps."""
    steps: int | None = None
    """Steps of each training, instead of minutes; without either, the base preset's own."""
    shard: str = "1/1"
    """i/n: only the i-th of n parts of the trainings; all parts may run at once, on any machines."""
    split: str = "test"
    """Split to score."""
    corruptions: bool = False
    """Score failing sensors too."""
    analysis: bool = False
    """Measure separability and robustness too."""


def agreed_budget(arguments: Arguments, out: Path, base: TrainConfig) -> Budget:
    """The comparison's budget: the one written down, else what is asked for, minutes being turned into steps by
    SGMA's speed here."""
    known = read_budget(out)
    if known:
        if arguments.steps not in (None, known.steps) or arguments.budget_minutes not in (None, known.minutes):
            raise InputError(
                f"{out} has a budget of {known.steps} steps ({known.minutes} minutes) already; give another --out, or "
                f"ask for that one."
            )
        return known
    if arguments.steps is not None and arguments.budget_minutes is not None:
        raise InputError("--budget-minutes and --steps are given; give one of them.")
    for flag, value in (("--steps", arguments.steps), ("--budget-minutes", arguments.budget_minutes)):
        if value is not None and value <= 0:
            raise InputError(f"{flag} is {value}; it must be positive.")
    if arguments.budget_minutes is None:
        return fix_budget(out, Budget(arguments.steps or base.steps, 0.0, 0.0, machine()))
    folder = out / "calibration"
    config = calibration(METHODS[REFERENCE](base))
    write_atomically(folder / PRESET_FILE, to_json(config).encode())
    print(f"calibration: {config.steps} steps of {REFERENCE}", flush=True)
    if wrong := run_sgma(folder, "train", str(folder / PRESET_FILE), "--workdir", str(folder)):
        raise InputError(f"the calibration failed: {wrong}")
    seconds = seconds_per_step(folder / METRICS_FILE, config.data.batch_size)
    steps = max(1, int(arguments.budget_minutes * 60 / seconds))
    return fix_budget(out, Budget(steps, float(arguments.budget_minutes), seconds, machine()))


def is_newer(page: Path, sources: list[Path]) -> bool:
    """Return whether a file was written after all those that it is made from."""
    return page.is_file() and all(source.stat().st_mtime <= page.stat().st_mtime for source in sources)


@one_line_errors
def main() -> None:
    """Run this shard's members, then write the tables of all that is done."""
    arguments = parse_process(Arguments, "experiments.compare")
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}; it must be at least 1.")
    base = load_preset(arguments.base)
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, path=str(arguments.data)))
    names = chosen_methods(arguments.group, arguments.methods)
    # All that can be wrong with what was asked for is said once, before anything is written.
    for name in names:
        check(METHODS[name](base))
    check_expected(read_manifest(arguments.data).schema, base.data.modalities, base.data.bands, base.data.classes)
    share([], arguments.shard)
    out = arguments.out or Path("runs/compare") / base.name
    budget = agreed_budget(arguments, out, base)
    print(f"budget: {budget.steps} steps each", flush=True)

    everything = members({name: METHODS[name](with_steps(base, budget.steps)) for name in names}, arguments.seeds, out)
    extras = [
        flag
        for flag, wanted in (("--corruptions", arguments.corruptions), ("--analysis", arguments.analysis))
        if wanted
    ]
    mine = share(everything, arguments.shard)
    failed = []
    for number, member in enumerate(mine, 1):
        print(f"{number}/{len(mine)} {member.method}, seed {member.config.seed}", flush=True)
        wrong = run_member(member, arguments.split, extras)
        if wrong:  # the others go on
            failed.append(f"{member.method}/{member.seed}: {wrong}")
            print(f"  failed: {wrong}", flush=True)

    if len(failed) == len(everything):
        raise InputError(f"every training failed, so there is nothing to put into a table; {failed[0]}")
    summary = {**summarise(everything, budget, arguments.split, REFERENCE), "failed": failed}
    name = "chosen" if arguments.methods else arguments.group
    text = markdown(summary)
    write_atomically(out / f"{name}.json", (json.dumps(summary, indent=2) + "\n").encode())
    write_atomically(out / f"{name}.md", text.encode())
    print(f"\n{text}\n{out / name}.md, {out / name}.json, {out / name}.html")
    page = out / f"{name}.html"
    first = [
        out / method["runs"][0] for method in summary["methods"].values()
    ]  # [C] one seed of each stands side by side on the page
    if not is_newer(page, [result_file(folder, arguments.split) for folder in first]) and (
        wrong := run_sgma(out, "report", *map(str, first), "--out", str(page), "--split", arguments.split)
    ):
        failed.append(f"report: {wrong}")
        print(f"  failed: {wrong}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
