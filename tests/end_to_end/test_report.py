"""`sgma report`: from a trained and scored run to one file, and in one line where that cannot be."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgma_jax.data.pipeline import open_split
from sgma_jax.evaluation.evaluator import answer_records, evaluator_of
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.run import Run
from sgma_jax.show.tables import percent
from tests.end_to_end.test_commands import assert_one_line

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scored_run(tiny_run: Path, sgma: Command, tmp_path: Path) -> Path:
    """A copy of the tiny run, scored on validation and nothing else, that a test may damage."""
    if not (tiny_run / "evaluation" / "validation.json").exists():
        assert sgma("evaluate", tiny_run, "--split", "validation")[0] == 0
    # Other tests score the same run on test.
    return Path(shutil.copytree(tiny_run, tmp_path / "scored", ignore=shutil.ignore_patterns("test.json", "test_*")))


def test_the_page_holds_the_runs_scores_and_its_models_own_answers(
    scored_run: Path, sgma: Command, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    status, said, _ = sgma("report", scored_run, "--split", "validation", "--scenes", 2, "--out", out)
    assert status == 0
    assert "report.html" in said
    page = out.read_text()
    scores = json.loads((scored_run / "evaluation" / "validation.json").read_text())
    assert all(f"<b>{percent(row['miou'])}</b>" in page for row in scores["subsets"])

    data = json.loads(re.search(r'id="scenes">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    config = read_config(scored_run)
    source, loaded = open_split(config.data, "validation"), Run(scored_run, config)
    answers = list(answer_records(evaluator_of(loaded), loaded.restored.variables, source, config.data, [0, 1]))
    palette = {tuple(colour): code for code, colour in enumerate(source.schema.palette)}
    for scene, answer in zip(data["scenes"], answers, strict=True):
        assert set(scene["answers"][0]) == {"rgb", "dsm", "rgb+dsm"}
        for subset, expected in answer.items():
            uri = scene["answers"][0]["+".join(subset)]["prediction"]
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))
            codes = [[palette[tuple(p[:3])] if p[3] else 255 for p in row] for row in shown.tolist()]
            np.testing.assert_array_equal(codes, expected.classes)


def test_a_run_says_how_it_was_started_and_its_configuration_is_a_preset(
    scored_run: Path, sgma: Command, tiny_city: Path, tmp_path: Path
) -> None:
    starts = [json.loads(line) for line in (scored_run / "starts.jsonl").read_text().splitlines()]
    assert starts[0]["step"] == 0
    assert starts[0]["command"].startswith("sgma train ")
    assert starts[0]["devices"].endswith(" x cpu")
    assert starts[0]["versions"]["jax"]
    # What the report offers for download trains, and goes on with the run that it came from.
    config = tmp_path / "config.json"
    config.write_text((scored_run / "config.json").read_text())
    assert sgma("train", config, "--workdir", scored_run, "--data.path", tiny_city)[0] == 0
    assert [json.loads(line)["step"] for line in (scored_run / "starts.jsonl").read_text().splitlines()] == [0, 20]
    config.write_text("{}")
    assert_one_line(sgma("train", config, "--workdir", tmp_path / "other"), "config.json", "missing")


def test_without_scenes_neither_data_nor_checkpoint_is_needed(scored_run: Path, sgma: Command, tmp_path: Path) -> None:
    shutil.rmtree(scored_run / "checkpoints")
    config = json.loads((scored_run / "config.json").read_text())
    config["data"]["path"] = "gone"
    (scored_run / "config.json").write_text(json.dumps(config))
    out = tmp_path / "report.html"
    assert_one_line(
        sgma("report", scored_run, "--split", "validation", "--out", out), "gone", "--data-path", "--scenes 0"
    )
    assert not out.exists()
    assert sgma("report", scored_run, "--split", "validation", "--scenes", 0, "--out", out)[0] == 0
    assert "not at hand" in out.read_text()


def test_what_cannot_be_reported_is_one_line_and_leaves_what_was_there(
    scored_run: Path, sgma: Command, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    out.write_text("former")

    def report(*arguments: object) -> tuple[int, str, str]:
        return sgma("report", *arguments, "--out", out)

    assert_one_line(report(tmp_path), str(tmp_path), "not a run")
    assert_one_line(report(scored_run), "test.json", "sgma evaluate")
    assert_one_line(report(scored_run, scored_run, "--split", "validation"), "twice")
    assert_one_line(report(scored_run, "--split", "validation", "--scenes", -1), "--scenes", "at least 0")
    assert_one_line(sgma("report", scored_run, "--split", "validation", "--out", tmp_path), "--out", "folder")
    assert_one_line(
        sgma("report", scored_run, "--split", "validation", "--out", tmp_path / "none" / "r.html"), "none", "Create it"
    )
    path = scored_run / "evaluation" / "validation.json"
    scores = json.loads(path.read_text())
    for field, value, words in (
        ("checkpoint_step", 10, ("step 10", "20")),
        ("manifest_hash", "x", ("another data set", "--data-path")),
    ):
        path.write_text(json.dumps({**scores, "provenance": {**scores["provenance"], field: value}}))
        assert_one_line(report(scored_run, "--split", "validation"), *words, "sgma evaluate")
    assert out.read_text() == "former"
