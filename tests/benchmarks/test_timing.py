"""What the side-by-side benchmarks promise about a comparison, with contenders that compute nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks import side_by_side
from experiments.benchmarks.timing import ContenderFailed, Subject, contenders, summary, take_turns
from experiments.benchmarks.workload import Workload, batch_of, config_of, load_variables, save_variables
from sgma_jax.errors import InputError


def writer(name: str, log: Path, answer: float = 1.0) -> Subject:
    def run(case: str) -> None:
        if case == "die":
            os._exit(3)
        with log.open("a") as file:
            file.write(f"{name}:{case} ")

    return Subject(run, {"answer": [answer]}, lambda: None)


def sleeper(seconds: float, answer: float) -> Subject:
    return Subject(lambda case: time.sleep(seconds), {"answer": [answer]}, lambda: None)


def broken() -> Subject:
    raise RuntimeError("no compiler\nfound")


def test_contenders_run_in_turn_and_one_that_cannot_be_built_stops_nobody(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with contenders({"a": (writer, "a", log), "bad": (broken,), "b": (writer, "b", log)}) as (running, failed):
        times = take_turns(list(running.values()), "x", repeats=2, warmups=1)
        assert log.read_text() == "a:x b:x " * 3
        assert {name: len(t) for name, t in times.items()} == {"a": 2, "b": 2}
        assert failed == {"bad": "bad: RuntimeError: no compiler found"}
        with pytest.raises(ContenderFailed, match=r"a: its process died \(exit status 3\)"):
            running["a"].seconds("die")
        assert running["b"].seconds("x") >= 0


def test_the_ratio_is_to_the_fastest_opponent_and_parts_are_measured_against_it() -> None:
    builders = {"ours": (sleeper, 0.03, 1.0), "slow": (sleeper, 0.12, 1.0), "fast": (sleeper, 0.06, 1.0)}
    result = side_by_side.compete(side_by_side.Options(repeats=1, batch=4), builders, "all", ["part"])
    assert result["best_opponent"] == "fast"
    assert 1.4 < result["ratio"] < 2.6
    assert set(result["cases"]["part"]) == {"ratio", "ours", "fast"}
    assert result["variants"]["fast"]["ms"]["median"] >= 60


def test_contenders_that_compute_different_things_are_not_compared() -> None:
    builders = {"ours": (sleeper, 0.0, 1.0), "other": (sleeper, 0.0, 1.01)}
    with pytest.raises(InputError, match="do not compute the same"):
        side_by_side.compete(side_by_side.Options(repeats=1), builders, "all")


def test_a_summary_is_the_median_with_the_extremes() -> None:
    got = summary([0.2, 0.1, 0.4], images=8)
    assert got == {"ms": {"median": 200.0, "min": 100.0, "max": 400.0}, "images_per_second": 40.0}


def test_pytorchs_contenders_hold_no_jax() -> None:
    """Their peak memory is compared with ours."""
    code = (
        "import sys, experiments.benchmarks.train_step, experiments.benchmarks.inference; assert 'jax' not in "
        "sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_contender_gets_the_same_batch_and_weights(tmp_path: Path) -> None:
    workload = Workload(batch=2, size=32, modality_dropout=1.0)
    first, second = batch_of(workload), batch_of(workload)
    assert all((a == b).all() for a, b in zip(first[1:], second[1:], strict=True))
    assert all((first.images[m] == second.images[m]).all() for m in config_of(workload).data.modalities)
    assert not first.kept.all()
    variables = {"params": {"head": {"fuse": {"kernel": first.images["sensor0"]}}}, "batch_stats": {}}
    save_variables(tmp_path, variables)
    assert (load_variables(tmp_path)["params"]["head"]["fuse"]["kernel"] == first.images["sensor0"]).all()


def test_the_accelerator_benchmark_says_in_one_line_that_there_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.benchmarks.accelerator", "--against", "nothing", "--out", tmp_path]
    done = subprocess.run(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.strip().splitlines()[-1].startswith("error: JAX sees no accelerator; install")
