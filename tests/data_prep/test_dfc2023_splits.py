"""DFC2023's scenes are split by city, and neighbours do not end up in two splits unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import dfc2023
from sgma_jax.data.schema import read_manifest
from tests.data import make_dfc2023 as tree

SIZE = 32
Run = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("layout", ["delivered", "readme"])
def test_neighbours_in_two_splits_are_refused_unless_accepted(tmp_path: Path, run_converter: Run, layout: str) -> None:
    # Where scenes lie is told by their names, or by their CRS.
    names = list(tree.make_dfc2023(tmp_path / "source", layout=layout, size=32))
    splits = tmp_path / "splits.csv"
    splits.write_text(f"tile,split\n{names[0]},train\n{names[1]},test\n{names[2]},val\n")
    arguments = (dfc2023, tmp_path / "source", tmp_path / "out", "--tile", 32, "--splits", splits)
    status, error = run_converter(*arguments)
    assert status == 2
    assert "neighbours-in-two-splits" in error.splitlines()[-1]
    assert names[1] in error.splitlines()[-1]
    assert run_converter(*arguments, "--accept", "neighbours-in-two-splits")[0] == 0
    assert any(
        line.startswith("accepted: ") and "neighbours-in-two-splits" in line
        for line in read_manifest(tmp_path / "out").findings
    )


def test_without_city_and_crs_the_user_must_split(tmp_path: Path, run_converter: Run) -> None:
    names = tree.make_dfc2023(tmp_path / "source", layout="readme", size=32, inside="")
    arguments = (dfc2023, tmp_path / "source", tmp_path / "out", "--tile", 32)
    status, error = run_converter(*arguments)
    assert status == 2
    assert "no-city" in error.splitlines()[-1]
    assert "tile,split" in error.splitlines()[-1]
    splits = tmp_path / "splits.csv"
    splits.write_text(
        "tile,split\n" + "".join(f"{name},{tree.SPLITS[stem.split('_')[1]]}\n" for name, stem in names.items())
    )
    assert run_converter(*arguments, "--splits", splits)[0] == 0


def test_splits_of_the_user(tmp_path: Path, run_converter: Run) -> None:
    tree.make_dfc2023(tmp_path / "source", size=SIZE)
    splits = tmp_path / "splits.csv"
    splits.write_text("city,split\nBerlin,test\nNewYork,train\nNewDelhi,val\n")
    assert run_converter(dfc2023, tmp_path / "source", tmp_path / "out", "--tile", SIZE, "--splits", splits)[0] == 0
    manifest = read_manifest(tmp_path / "out")
    assert {split: counts.records for split, counts in manifest.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 4,
    }
    assert manifest.options["assigned"] == {"Berlin": "test", "NewYork": "train", "NewDelhi": "validation"}
