"""What is written about a comparison follows from the runs' files, and from nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.compare.budget import Budget
from experiments.compare.members import Member, members
from experiments.compare.summary import summarise
from experiments.compare.tables import markdown
from experiments.demo import config as demo
from sgma_jax.errors import InputError
from sgma_jax.evaluation.metrics import Tally, make_evaluation
from sgma_jax.runs.record_confusions import RecordConfusions, write_record_confusions
from sgma_jax.runs.results import Analysis, Corruptions, FailureScores, Separability, result_file, write_result

SUBSETS = (("rgb",), ("dsm",), ("rgb", "dsm"))
BUDGET = Budget(100, 2.0, 1.2, "two cores")


def write_run(member: Member, skill: float, *, data: str = "same", records: int = 12) -> None:
    """The files of a run that is right as often as its skill says."""
    rng = np.random.default_rng(member.config.seed)
    counts = rng.integers(5, 15, size=(records, 3, 2, 2))
    counts = np.round(counts * np.where(np.eye(2, dtype=bool), skill, 1 - skill)).astype(np.int32)
    tallies = {s: Tally(m, int(m.sum())) for s, m in zip(SUBSETS, counts.sum(0, dtype=np.int64), strict=True)}
    evaluation = dataclasses.replace(
        make_evaluation(tallies, "test", ("rgb", "dsm"), ("a", "b")),
        provenance={"manifest_hash": data, "git_revision": "abc"},
    )
    folder = member.folder / "evaluation"
    write_record_confusions(
        folder / "test_records.npz", RecordConfusions(tuple(map(str, range(records))), SUBSETS, counts)
    )
    write_result(folder / "test.json", evaluation)
    lines = [
        {"step": 10 * i, "kind": "train", "images_per_second": 5.0, "sampling": {"rgb": 0.4, "dsm": 0.6}}
        for i in range(1, 8)
    ]
    (member.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def everything(tmp_path: Path) -> list[Member]:
    return members({"sgma": demo, "worse": demo, "like": demo}, 2, tmp_path)


def test_the_table_says_better_only_where_the_interval_excludes_zero(everything: list[Member]) -> None:
    for member in everything:
        write_run(member, 0.6 if member.method == "worse" else 0.9)
    summary = summarise(everything, BUDGET, "test", "sgma")
    verdicts = {(c["against"], c["measure"]): c["verdict"] for c in summary["comparisons"]}
    assert verdicts == {
        ("worse", "average"): "better",
        ("worse", "last1"): "better",
        ("like", "average"): "no difference shown",
        ("like", "last1"): "no difference shown",
    }
    text = markdown(summary)
    assert text.count("| better |") == 2
    assert text.count("| no difference shown |") == 2
    assert "100 steps (2 minutes of SGMA at 1.2 s a step on two cores)" in text
    assert "rgb 40.0, dsm 60.0" in text
    json.dumps(summary, allow_nan=False)


def test_from_a_handful_of_tiles_nothing_is_called_better(everything: list[Member]) -> None:
    for member in everything:
        write_run(member, 0.6 if member.method == "worse" else 0.9, records=9)
    summary = summarise(everything, BUDGET, "test", "sgma")
    assert {c["verdict"] for c in summary["comparisons"]} == {"not to be said from so few tiles"}


def test_scores_are_those_of_the_runs_own_evaluations(everything: list[Member]) -> None:
    for member in everything:
        write_run(member, 0.7)
    summary = summarise(everything, BUDGET, "test", "sgma")
    reports = [
        json.loads((m.folder / "evaluation" / "test.json").read_text()) for m in everything if m.method == "sgma"
    ]
    found = summary["methods"]["sgma"]
    assert found["average"]["values"] == pytest.approx([r["average"] for r in reports])
    assert found["last1"]["mean"] == pytest.approx(np.mean([r["last1"]["miou"] for r in reports]))
    assert found["last1"]["sd"] == pytest.approx(np.std([r["last1"]["miou"] for r in reports], ddof=1))
    assert [found["subsets"][s]["values"][0] for s in summary["subsets"]] == pytest.approx(
        [row["miou"] for row in reports[0]["subsets"]]
    )
    assert found["expected"]["0.1"]["values"] == pytest.approx([r["bernoulli"]["0.1"] for r in reports])
    assert list(found["sampling"][0]) == ["10", "30", "50", "70"]


def test_what_is_not_done_is_listed_and_what_is_done_is_compared_over_the_seeds_that_both_have(
    everything: list[Member],
) -> None:
    with pytest.raises(InputError, match="no member"):
        summarise(everything, BUDGET, "test", "sgma")
    for member in everything:
        if (member.method, member.seed) not in (("worse", 1), ("like", 0), ("like", 1)):
            write_run(member, 0.8)
    summary = summarise(everything, BUDGET, "test", "sgma")
    assert summary["not_done"] == ["like/0", "worse/1", "like/1"]
    assert {(c["against"], c["seeds"]) for c in summary["comparisons"]} == {("worse", 1)}
    assert "Not done: like/0, worse/1, like/1." in markdown(summary)


@pytest.mark.parametrize("change", [{"data": "other"}, {"records": 11}])
def test_runs_that_were_scored_on_other_data_are_refused(everything: list[Member], change: dict[str, object]) -> None:
    for member in everything[:2]:
        write_run(member, 0.8)
    write_run(everything[2], 0.8, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"like/0 was scored on other data"):
        summarise(everything, BUDGET, "test", "sgma")


def write_extras(member: Member, clean: float) -> None:
    """What `sgma evaluate --corruptions --analysis` leaves, each figure a known distance from `clean`."""
    common: dict[str, Any] = {"split": "test", "modalities": ("rgb", "dsm"), "classes": ("a", "b"), "provenance": {}}
    failures = tuple(
        FailureScores(modality=s, kind=kind, level=level, miou=clean - loss - level, f1=None, oa=None, iou={})
        for s, loss in (("rgb", 0.1), ("dsm", 0.2))
        for kind in ("partial_missing", "misregistration")
        for level in (0.01, 0.03)
    )
    missing = {"rgb": clean - 0.4, "dsm": clean - 0.2}
    corruptions = Corruptions(**common, missing="skip", clean=clean, missing_wholly=missing, failures=failures)
    separability = tuple(
        Separability(
            modality=s,
            stride=4,
            features=features,
            positions=9,
            silhouette=clean if features == "fused" else None,
            variance={},
        )
        for s in ("rgb", "dsm")
        for features in ("encoder", "fused")
    )
    robustness: Any = {"4": {"a": {"rgb": clean, "dsm": 1 - clean}, "b": None}}
    analysis = Analysis(**common, separability=separability, robustness=robustness)
    write_result(result_file(member.folder, "test", "_corruptions.json"), corruptions)
    write_result(result_file(member.folder, "test", "_analysis.json"), analysis)


def test_failing_sensors_and_robustness_are_means_over_the_seeds_that_were_looked_at(everything: list[Member]) -> None:
    for member in everything:
        write_run(member, 0.8)
    for member, clean in zip([m for m in everything if m.method == "sgma"], (0.6, 0.8), strict=True):
        write_extras(member, clean)
    summary = summarise(everything, BUDGET, "test", "sgma")
    json.dumps(summary, allow_nan=False)
    assert "failures" not in summary["methods"]["like"]
    found = summary["methods"]["sgma"]
    assert (
        found["failures"]["seeds"]
        == found["robustness"]["seeds"]
        == [m.config.seed for m in everything if m.method == "sgma"]
    )
    rgb, each = (found["failures"]["sensors"][name] for name in ("rgb", "each in turn"))
    assert found["failures"]["clean"]["mean"] == pytest.approx(0.7)
    assert rgb["misregistration"]["values"] == pytest.approx([0.6 - 0.12, 0.8 - 0.12])
    assert rgb["missing"]["mean"] == pytest.approx(0.3)
    assert each["missing"]["mean"] == pytest.approx(0.4)
    assert each["misregistration"]["mean"] == found["failures"]["in_part"]["mean"] == pytest.approx(0.7 - 0.17)
    lines = markdown(summary).splitlines()
    assert "| sgma | 2 | rgb | 30.00 ± 14.14 | 58.00 ± 14.14 | 58.00 ± 14.14 |  |  |" in lines
    assert (
        "| sgma | 2 | each in turn | 40.00 ± 14.14 | 53.00 ± 14.14 | 53.00 ± 14.14 | **53.00 ± 14.14** | 70.00 ± 14.14 "
        "|" in lines
    )
    assert "| sgma | 2 | dsm | - > 0.70 |" in lines
    assert {"| sgma | 2 | 4 | a | rgb 70, dsm 30 |", "| sgma | 2 | 4 | b | - |"} <= set(lines)
