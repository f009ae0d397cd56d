from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from sgma_jax.data.schema import IGNORE, Example, Modality, Schema
from sgma_jax.show import pictures
from sgma_jax.show.pictures import AnsweredScene, contact_sheet, sampling_picture, scene_picture


def _scene(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    height, width = 32, 48
    available = np.ones((3, height, width), bool)
    available[1, :8] = False
    available[2] = False
    images = {
        "rgb": random.normal(size=(height, width, 3)),
        "dsm": random.normal(size=(height, width, 1)),
        "multi": np.zeros((height, width, 6)),
    }
    images["dsm"][:8] = np.nan
    label = random.integers(0, 3, (height, width)).astype(np.uint8)
    label[:2] = 255
    robustness = [
        np.full((3, height // s, width // s), 0.5) * np.array([1, 1, 0])[:, None, None] for s in (4, 8, 16, 32)
    ]
    return {
        "images": images,
        "available": available,
        "label": label,
        "predictions": {
            ("rgb",): label,
            ("dsm",): np.zeros_like(label),
            ("rgb", "dsm"): label,
            ("rgb", "dsm", "multi"): label,
        },
        "robustness": robustness,
        "classes": ["road", "roof", "tree"],
        "palette": [(255, 255, 255), (0, 0, 255), (0, 255, 0)],
    } | changes


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    show = pictures._show

    def spy(axis: Any, image: np.ndarray, title: str, **options: Any) -> None:
        seen.append(title)
        show(axis, image, title, **options)

    monkeypatch.setattr(pictures, "_show", spy)
    return seen


def test_a_scene_gives_one_picture_of_predictions_and_one_of_robustness(tmp_path: Path) -> None:
    written = scene_picture(tmp_path / "scene.png", AnsweredScene(**_scene()))
    assert [p.name for p in written] == ["scene.png", "scene_robustness.png"]
    assert all(imread(p).std() > 0.05 for p in written)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.png", "scene_robustness.png"]


def test_without_robustness_maps_there_is_no_second_picture(tmp_path: Path) -> None:
    assert scene_picture(tmp_path / "scene.png", AnsweredScene(**_scene(robustness=[]))) == [tmp_path / "scene.png"]


def test_titles_tell_what_is_absent_and_how_right_each_subset_is(tmp_path: Path, titles: list[str]) -> None:
    scene_picture(tmp_path / "scene.png", AnsweredScene(**_scene()))
    assert titles[:4] == ["rgb", "dsm (75 % there)", "multi (absent)", "label"]
    assert titles[4] == "rgb  100.0 % right"
    assert "mean 0.50" in titles
    assert titles.count("absent") == 4


def test_what_absent_pixels_hold_does_not_change_the_picture(tmp_path: Path) -> None:
    scene = _scene()
    scene_picture(tmp_path / "nan.png", AnsweredScene(**scene))
    scene["images"]["dsm"][:8] = 1e6
    scene_picture(tmp_path / "large.png", AnsweredScene(**scene))
    assert (tmp_path / "nan.png").read_bytes() == (tmp_path / "large.png").read_bytes()


def test_a_label_without_any_labelled_pixel_is_drawn_without_an_accuracy(tmp_path: Path, titles: list[str]) -> None:
    scene_picture(tmp_path / "scene.png", AnsweredScene(**_scene(label=np.full((32, 48), 255, np.uint8))))
    assert titles[4] == "rgb"


@pytest.mark.parametrize("sampling", [True, False])
def test_training_is_drawn_with_and_without_modality_aware_sampling(tmp_path: Path, sampling: bool) -> None:
    lines: list[dict[str, Any]] = [{"step": s, "kind": "train", "loss": 1.0 / s, "loss_fused": None} for s in (10, 20)]
    for line in lines:
        line |= {"sampling": {"rgb": 0.25, "sar": 0.75}, "loss_mas": 0.5} if sampling else {}
    lines.append(
        {
            "step": 20,
            "kind": "evaluation",
            "average": 0.5,
            "last1": 0.25,
            "miou": {"rgb": 0.5, "sar": 0.25, "rgb+sar": 0.75},
        }
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert imread(sampling_picture(tmp_path / "training.png", tmp_path / "metrics.jsonl")).std() > 0.05


def test_display_never_loads_jax_and_training_never_loads_matplotlib() -> None:
    modules = "pictures, progress, tables"
    code = (
        f"import sys; import sgma_jax.runs.metrics_log; from sgma_jax.show import {modules}; print(sorted({{'jax', 'matplotlib'}} & "
        f"set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_contact_sheet_shows_every_sensor_and_label_so_that_records_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = Schema(
        "set",
        (Modality("rgb", 3, "", "uint8"), Modality("dsm", 1, "metre", "float32")),
        ("road", "roof"),
        ((9, 9, 9), (0, 0, 255)),
        16,
    )
    height = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    label = np.zeros((16, 16), np.uint8)
    label[:8] = IGNORE
    there, absent = np.ones((2, 16, 16), bool), np.stack((np.zeros((16, 16), bool), np.ones((16, 16), bool)))
    examples = [
        Example({"rgb": np.full((16, 16, 3), 7, np.uint8), "dsm": height}, there, label, "low"),
        Example({"rgb": np.zeros((16, 16, 3), np.uint8), "dsm": height + 9}, absent, label, "high"),
    ]
    shown: list[tuple[str, np.ndarray]] = []
    monkeypatch.setattr(pictures, "_show", lambda axis, image, title: shown.append((title, image)))
    contact_sheet(tmp_path / "sheet.png", examples, schema)
    titles = [title for title, _ in shown]
    assert titles == ["rgb", "dsm", "label (50 % there)", "rgb (absent)", "dsm", "label (50 % there)"]
    assert shown[1][1].max() < shown[4][1].min()  # one stretch for both, so the higher scene is brighter
    assert (shown[2][1][8:] == np.array([9, 9, 9]) / 255).all()
    assert imread(tmp_path / "sheet.png").std() > 0
