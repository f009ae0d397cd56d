"""The `sgma` command: what it leaves, and what it says to bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic import Options, convert_city
from sgma_jax.runs.checkpoints import newest_step
from sgma_jax.runs.metrics_log import read_metrics

Command = Callable[..., tuple[int, str, str]]


def assert_one_line(result: tuple[int, str, str], *words: str) -> None:
    status, _, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert status == 2
    assert len(lines) == 1, err
    for word in ("error: ", *words):
        assert word in lines[0], lines[0]


def test_a_run_leaves_configuration_metrics_events_and_checkpoints(tiny_run: Path) -> None:
    assert json.loads((tiny_run / "config.json").read_text())["name"] == "tiny"
    lines = read_metrics(tiny_run / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 21))
    assert all(abs(sum(line["sampling"].values()) - 1) < 1e-9 for line in train)
    assert {"loss", "loss_fused", "loss_mas", "gradient_norm", "learning_rate"} <= set(train[0])
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [10, 20]
    assert list((tiny_run / "tensorboard").iterdir())
    assert (tiny_run / "checkpoints" / "20").is_dir()
    assert train[-1]["loss"] < train[0]["loss"]


def test_evaluation_scores_every_subset_and_says_where_its_numbers_come_from(tiny_run: Path, sgma: Command) -> None:
    status, out, _ = sgma("evaluate", tiny_run, "--split", "test", "--pictures", 1)
    assert status == 0
    assert "rgb" in out
    report = json.loads((tiny_run / "evaluation" / "test.json").read_text())
    assert report["split"] == "test"
    assert report["missing"] == "skip"
    assert report["modalities"] == ["rgb", "dsm"]
    assert [row["modalities"] for row in report["subsets"]] == [["rgb"], ["dsm"], ["rgb", "dsm"]]
    for row in report["subsets"]:
        assert 0 <= row["miou"] <= 1
        assert set(row["iou"]) == set(report["classes"])
        assert 0 < row["coverage"] <= 1
    scores = [row["miou"] for row in report["subsets"]]
    assert report["average"] == pytest.approx(sum(scores) / 3)
    assert report["last1"]["miou"] == min(scores)
    assert report["top1"]["miou"] == max(scores)
    assert set(report["bernoulli"]) == {"0.05", "0.1", "0.2"}
    provenance = report["provenance"]
    assert provenance["checkpoint_step"] == 20
    assert provenance["manifest_hash"] == provenance["trained_on_manifest_hash"]
    assert provenance["versions"]["jax"]
    assert {p.name for p in (tiny_run / "pictures").iterdir()} >= {
        "test_000.png",
        "test_000_robustness.png",
        "training.png",
    }


def test_the_zero_protocol_differs_only_where_a_sensor_is_absent(tiny_run: Path, sgma: Command) -> None:
    assert sgma("evaluate", tiny_run, "--split", "validation")[0] == 0
    assert sgma("evaluate", tiny_run, "--split", "validation", "--missing", "zero")[0] == 0
    skip, zero = (
        json.loads((tiny_run / "evaluation" / f"{name}.json").read_text()) for name in ("validation", "validation_zero")
    )
    assert zero["missing"] == "zero"
    assert [row["coverage"] for row in zero["subsets"]] == [row["coverage"] for row in skip["subsets"]]
    assert zero["subsets"][0]["iou"] != skip["subsets"][0]["iou"]


def test_fewer_records_at_once_change_no_score(tiny_run: Path, sgma: Command) -> None:
    path, found = tiny_run / "evaluation" / "validation.json", []
    for flags in ((), ("--batch", 1)):
        assert sgma("evaluate", tiny_run, "--split", "validation", *flags)[0] == 0
        found.append(json.loads(path.read_text())["subsets"])
    for usual, one in zip(*found, strict=True):
        np.testing.assert_allclose(one["confusion"], usual["confusion"], atol=2)  # a tie may fall the other way
    assert_one_line(sgma("evaluate", tiny_run, "--batch", 0), "--batch is 0")


def test_inspect_prints_a_table_and_json(tiny_preset: Path, sgma: Command) -> None:
    status, out, _ = sgma("inspect", tiny_preset, "--size", 64)
    assert status == 0
    assert "fusion" in out
    assert "total" in out
    status, out, _ = sgma("inspect", tiny_preset, "--size", 64, "--json")
    costs = json.loads(out)
    assert status == 0
    assert costs["total"]["parameters"] == sum(p["parameters"] for p in costs["parts"].values())


def test_bad_presets_are_named(sgma: Command, tmp_path: Path, tiny_preset: Path, tiny_city: Path) -> None:
    assert_one_line(sgma("train", tmp_path / "none.py", "--workdir", tmp_path / "run"), "none.py", "no such preset")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    assert_one_line(sgma("train", empty, "--workdir", tmp_path / "run"), "empty.py", "config = TrainConfig")
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    assert_one_line(sgma("train", broken, "--workdir", tmp_path / "run"), "broken.py", "nothing_of_that_name")
    assert_one_line(sgma("train", tiny_preset, "--workdir", tmp_path / "run"), "data.path")
    crop = ("--data.path", tiny_city, "--data.crop", 500)
    assert_one_line(sgma("train", tiny_preset, "--workdir", tmp_path / "run", *crop), "data.crop", "500")
    assert not (tmp_path / "run").exists()
    assert_one_line(sgma("nonsense"), "nonsense", "train")


def test_a_converted_set_of_another_schema_is_refused_before_anything_is_written(
    sgma: Command, tmp_path: Path, tiny_preset: Path, tiny_city: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(tiny_preset.read_text().replace('("rgb", "dsm")', '("rgb", "thermal")'))
    assert_one_line(sgma("train", other, "--workdir", tmp_path / "run", "--data.path", tiny_city), "thermal")
    other.write_text(tiny_preset.read_text().replace('"car"', '"boat"'))
    assert_one_line(sgma("train", other, "--workdir", tmp_path / "run", "--data.path", tiny_city), "boat")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_preset_is_refused_and_left_alone(
    sgma: Command, tiny_run: Path, tiny_preset: Path, tiny_city: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(tiny_preset.read_text().replace("head_width=16", "head_width=32"))
    before = (tiny_run / "config.json").read_bytes(), (tiny_run / "metrics.jsonl").read_bytes()
    assert_one_line(
        sgma("train", other, "--workdir", tiny_run, "--data.path", tiny_city), "model.head_width", "--workdir"
    )
    assert before == ((tiny_run / "config.json").read_bytes(), (tiny_run / "metrics.jsonl").read_bytes())


def test_folders_that_are_no_runs_are_named(sgma: Command, tmp_path: Path, tiny_run: Path) -> None:
    assert_one_line(sgma("evaluate", tmp_path / "nowhere"), "nowhere", "not a run")
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    (untrained / "config.json").write_text((tiny_run / "config.json").read_text())
    assert_one_line(sgma("evaluate", untrained), "untrained", "no checkpoint")
    (untrained / "config.json").write_text(
        (tiny_run / "config.json").read_text().replace('"steps": 20', '"steps": "many"')
    )
    assert_one_line(sgma("evaluate", untrained), "config.json", "steps")
    assert_one_line(sgma("evaluate", tiny_run, "--split", "nonsense"), "nonsense")


def test_a_set_without_a_validation_split_is_trained_on_where_that_is_meant(
    sgma: Command, tiny_preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_city(Options(out=tmp_path / "set", size=64, train=7, validation=0, test=1))
    capsys.readouterr()
    run = tmp_path / "run"
    train = ("train", tiny_preset, "--workdir", run, "--data.path", tmp_path / "set", "--stop-after", 2)
    assert_one_line(sgma(*train), "'validation' is empty", "--no-validate")
    assert not run.exists()
    assert sgma(*train, "--no-validate")[0] == 0
    assert {line["kind"] for line in read_metrics(run / "metrics.jsonl")} == {"train"}
    assert newest_step(run) == 2


def test_a_converted_set_can_be_looked_at(sgma: Command, tiny_city: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    status, out, _ = sgma("data", "show", tiny_city, "--split", "validation", "--n", 9, "--out", sheet)
    assert status == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    for expected in ("impervious", "decibel", "2 of 2 records of validation", str(sheet)):
        assert expected in out.replace("\n", "")
    assert_one_line(sgma("data", "show", tmp_path), str(tmp_path), "not a converted data set")
    assert_one_line(sgma("data", "show", tiny_city, "--split", "nonsense", "--out", sheet), "nonsense", "train")
    assert_one_line(
        sgma("data", "show", tiny_city, "--out", tmp_path / "nowhere" / "sheet.png"), "nowhere", "Create it"
    )
    assert_one_line(sgma("data", "look"), "sgma data show")


def test_a_full_disk_is_one_line_before_the_first_step_and_the_command_goes_on_once_there_is_room(
    small_disk: Path, tiny_preset: Path, tiny_city: Path, sgma: Command
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - (256 << 10)))
    command = ["train", tiny_preset, "--workdir", run, "--data.path", tiny_city, "--stop-after", "10"]
    assert_one_line(sgma(*command), "the disk is full", str(run), "step 0")
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert sgma(*command)[0] == 0
    assert (run / "checkpoints" / "10").is_dir()
