"""The doctor recognises a set by names alone, tells what is missing and wrong, and changes nothing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import doctor
from tests.data.damage import drop_last_column, rewrite, truncate, zip_folders
from tests.data.make_potsdam import write_potsdam
from tests.data.make_vaihingen import write_vaihingen

Doctor = Callable[[Path], tuple[int, str, str]]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """examine(SOURCE) -> exit status, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(source: Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["doctor", str(source)])
        status = 0
        try:
            doctor.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return run


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_sound_set_is_recognised_whatever_its_folder_is_called(examine: Doctor, tmp_path: Path) -> None:
    status, out, _ = examine(write_potsdam(tmp_path / "top_mosaic_09cm_area1" / "rain", size=32))
    assert status == 0
    assert "ISPRS Potsdam" in out
    assert "38 of 38 tiles" in out
    assert "python -m data_prep.potsdam can convert it" in out
    status, out, _ = examine(write_vaihingen(tmp_path / "dsm_potsdam_02_10.tif"))
    assert status == 0
    assert "ISPRS Vaihingen" in out
    assert "nothing odd" in out


def test_what_is_missing_and_wrong_is_listed_and_nothing_is_written(
    examine: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_potsdam(tmp_path / "potsdam", size=32)
    (tree / "1_DSM_normalisation" / "dsm_potsdam_03_13_normalized_lastools.jpg").unlink()
    truncate(tree / "3_Ortho_IRRG" / "top_potsdam_6_7_IRRG.tif")
    rewrite(tree / "5_Labels_all" / "top_potsdam_7_13_label.tif", lambda values: values // 2 + 100)
    archives = zip_folders(tree, tmp_path / "archives")
    before = fingerprint(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    status, out, _ = examine(archives)
    assert status == 1
    for words in (
        "37 of 38 tiles; missing 3_13",
        "[unreadable]",
        "3_Ortho_IRRG.zip/3_Ortho_IRRG/top_potsdam_6_7_IRRG.tif",
        "[missing-sensor]",
        "[off-palette]",
        "would refuse it as it is",
    ):
        assert words in out
    assert str(scratch) not in out
    assert not list(scratch.iterdir())
    assert fingerprint(tmp_path) == before


def test_files_that_only_other_options_read_are_looked_at_too(examine: Doctor, tmp_path: Path) -> None:
    tree = write_potsdam(tmp_path / "potsdam", size=32)
    drop_last_column(tree / "1_DSM" / "dsm_potsdam_03_13.tif")
    truncate(tree / "5_Labels_all_noBoundary" / "top_potsdam_4_13_label_noBoundary.tif")
    (tree / "1_DSM_normalisation" / "dsm_potsdam_05_12_normalized_ownapproach.jpg").write_bytes(b"")
    status, out, _ = examine(tree)
    assert status == 0, "none of it is read by default"
    text = " ".join(out.replace("│", " ").split())
    for words in (
        "With --dsm absolute: Not available there (column last).",
        "With --eroded-evaluation, error:",
        "With --dsm ownapproach, refused:",
    ):
        assert words in text


def test_a_source_of_no_known_set_or_of_several_is_one_line(examine: Doctor, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"1")
    status, _, err = examine(tmp_path / "other")
    assert status == 2
    assert err.count("\n") == 1
    assert "holiday.jpg" in err
    write_potsdam(tmp_path / "both", ["2_10"], size=16)
    write_vaihingen(tmp_path / "both", ["1"])
    status, _, err = examine(tmp_path / "both")
    assert status == 2
    assert "several sets: ISPRS Potsdam, ISPRS Vaihingen" in err
