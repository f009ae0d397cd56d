from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from sgma_jax.runs.results import Evaluation, Extreme, SubsetScores
from sgma_jax.show.tables import bar, percent, print_evaluation


def _evaluation(classes: list[str], **of_subsets: Any) -> Evaluation:
    """Three subsets; `of_subsets` are fields of theirs."""
    iou = {**dict.fromkeys(classes, 0.5), classes[-1]: None}
    fields: dict[str, Any] = {
        "f1": 0.6,
        "oa": 0.81239,
        "iou": iou,
        "coverage": 1.0,
        "confusion": (),
        "calibration": None,
    }
    subsets = tuple(
        SubsetScores(**{"modalities": names, "miou": miou, **fields, **of_subsets})
        for names, miou in ((("rgb",), 0.5), (("sar",), 0.125), (("rgb", "sar"), 0.75))
    )
    return Evaluation(
        split="test",
        modalities=("rgb", "sar"),
        classes=tuple(classes),
        missing="skip",
        subsets=subsets,
        average=0.4583,
        top1=Extreme(("rgb", "sar"), 0.75),
        last1=Extreme(("sar",), 0.125),
        bernoulli={"0.05": 0.74, "0.1": 0.73, "0.2": 0.7},
        provenance={},
    )


def _printed(evaluation: Evaluation, width: int = 100, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_evaluation(evaluation, Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    return stream.getvalue()


def test_every_subset_and_every_summary_has_its_row_in_percent() -> None:
    rows = {line.split("  ")[0].strip(): line for line in _printed(_evaluation(["road", "car"])).splitlines()}
    assert "75.00" in rows["rgb+sar"]
    assert "81.24" in rows["rgb+sar"]
    assert "45.83" in rows["Average"]
    assert "75.00" in rows["Top-1 rgb+sar"]
    assert "12.50" in rows["Last-1 sar"]
    assert all(f"each lost with p = {p}" in rows for p in ("0.05", "0.1", "0.2"))


def test_a_class_that_does_not_occur_is_a_dash_and_not_a_zero() -> None:
    row = next(
        line for line in _printed(_evaluation(["road", "car"])).splitlines() if line.strip().startswith("rgb+sar")
    )
    assert row.split()[-2:] == ["50.00", "-"]


def test_coverage_is_shown_only_where_a_subset_leaves_pixels_without_data() -> None:
    evaluation = _evaluation(["road", "car"])
    assert "coverage" not in _printed(evaluation)
    rgb, sar, both = evaluation.subsets
    partial = dataclasses.replace(evaluation, subsets=(rgb, dataclasses.replace(sar, coverage=0.875), both))
    assert "coverage" in _printed(partial)
    assert "87.50" in _printed(partial)


def test_a_split_without_any_labelled_pixel_is_a_table_of_dashes() -> None:
    nothing = {"miou": None, "f1": None, "oa": None, "iou": {"road": None, "car": None}, "coverage": None}
    evaluation = _evaluation(["road", "car"], **nothing)
    empty = dataclasses.replace(evaluation, average=None, top1=None, last1=None, bernoulli={"0.05": None})
    row = next(line for line in _printed(empty).splitlines() if line.strip().startswith("rgb+sar"))
    assert row.split() == ["rgb+sar", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize("terminal", [True, False])
def test_many_classes_never_cut_off_a_score(terminal: bool) -> None:
    classes = [f"class number {i}" for i in range(25)]
    text = _printed(_evaluation(classes), width=80, terminal=terminal)
    assert "…" not in text
    assert all(name in text for name in classes)
    assert "81.24" in text


def test_a_full_bar_is_one_and_no_score_is_a_dash() -> None:
    assert bar(1.0, width=4).plain == "████"
    assert bar(0.5, width=1).plain == "▌"
    assert bar(None).plain == ""
    assert percent(None) == "-"


def test_names_with_square_brackets_are_shown_as_they_are() -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_evaluation(_evaluation(["[bold]", "built [m2]", "other [/]"]))
    assert all(name in text.getvalue() for name in ("[bold]", "built [m2]", "other [/]"))
