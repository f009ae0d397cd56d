"""Runs that were never trained: folders with a configuration, scores and curves made of random counts, and scenes of
random answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sgma_jax.config import DataConfig, MeanFusionConfig, SamplingConfig, TrainConfig, to_json
from sgma_jax.data.schema import IGNORE, Example, Manifest, Modality, Schema, SplitCounts
from sgma_jax.evaluation.metrics import CALIBRATION_BINS, LEVELS_PER_BIN, Tally, make_evaluation
from sgma_jax.modalities import subsets
from sgma_jax.report.records import ReportedRun, read_run
from sgma_jax.report.scenes import SceneAnswers, draw_scene
from sgma_jax.runs.results import result_file, write_result

SENSORS, CLASSES = ("rgb", "dsm", "sar"), ("road", "roof", "tree & shrub")
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 0))
SCHEMA = Schema(
    "made",
    tuple(Modality(s, 3 if s == "rgb" else 1, "", "float32", (0.0,), (1.0,)) for s in SENSORS),
    CLASSES,
    PALETTE,
    32,
)
MANIFEST = Manifest(
    schema=SCHEMA,
    builder="records",
    splits={s: SplitCounts(8, (10, 20, 30), 5, (8, 8, 7), (8000, 8000, 7000)) for s in ("train", "test")},
    converter="data_prep.made",
    options={"tile": 32},
    sources=(),
    shards=(),
    findings=("two scenes have no sar",),
)
MakeRun = Callable[..., ReportedRun]


@pytest.fixture
def made_run(tmp_path: Path) -> MakeRun:
    """made_run(name, sgf=True, mas=True, classes=CLASSES, calibrated=True) -> a Run as read from the folder that it
    leaves in tmp_path."""

    def make(
        name: str, *, sgf: bool = True, mas: bool = True, classes: tuple[str, ...] = CLASSES, calibrated: bool = True
    ) -> ReportedRun:
        folder = tmp_path / name
        (folder / "evaluation").mkdir(parents=True)
        data = DataConfig(path=str(tmp_path / "data"), modalities=SENSORS, bands=(3, 1, 1), classes=classes, crop=32)
        config = TrainConfig(name=name, data=data, steps=40, sampling=SamplingConfig() if mas else None)
        if not sgf:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, fusion=MeanFusionConfig()))
        random = np.random.default_rng(len(name))
        tallies = {}
        for subset in subsets(SENSORS):
            confusion = random.integers(0, 2000, (len(classes),) * 2)
            confidences = random.integers(0, 9, (CALIBRATION_BINS * LEVELS_PER_BIN, 2))
            tallies[subset] = Tally(confusion, int(confusion.sum()) + 7, confidences if calibrated else None)
        provenance = {
            "git_revision": "a" * 40,
            "versions": {"jax": "0"},
            "checkpoint_step": 40,
            "manifest_hash": "h",
            "trained_on_manifest_hash": "h",
        }
        evaluation = make_evaluation(tallies, "test", SENSORS, classes)
        write_result(result_file(folder, "test"), dataclasses.replace(evaluation, provenance=provenance))
        (folder / "config.json").write_text(to_json(config))
        lines = [{"step": s, "kind": "train", "loss": 3 / s, "loss_fused": 1 / s} for s in range(1, 41)]
        for line in lines:
            line |= {"loss_mas": 0.5, "sampling": {"rgb": 0.2, "dsm": 0.3, "sar": 0.5}} if mas else {}
        lines += [
            {
                "step": s,
                "kind": "evaluation",
                "average": 0.4,
                "miou": {"rgb": 0.5, "dsm": 0.3, "sar": None, "rgb+dsm": 0.6},
            }
            for s in (20, 40)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        start = {
            "step": 0,
            "command": f"sgma train {name}.py --workdir {name}",
            "devices": "1 x cpu",
            "git_revision": "b" * 40,
            "versions": {},
        }
        (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
        return dataclasses.replace(read_run(folder, config, "test", name), manifest=MANIFEST)

    return make


def random_example(seed: int) -> Example:
    """A tile that sar misses the left half of, with some pixels that have no label."""
    random = np.random.default_rng(seed)
    available = np.ones((3, 32, 32), bool)
    available[2, :, :16] = False
    label = random.integers(0, 3, (32, 32)).astype(np.uint8)
    label[:4] = IGNORE
    images = {m.name: random.normal(size=(32, 32, m.bands)).astype(np.float32) for m in SCHEMA.modalities}
    return Example(images, available, label, f"tile/{seed}")


def random_answers(
    example: Example, seed: int, sgf: bool = True
) -> dict[tuple[str, ...], tuple[np.ndarray, list[np.ndarray]]]:
    """Per subset, classes (255 where none of its sensors sees) and robustness maps at four scales."""
    random, answers = np.random.default_rng(seed), {}
    for subset in subsets(SENSORS):
        rows = [SENSORS.index(s) for s in subset]
        seen = example.available[rows].any(0)
        maps = []
        for stride in (4, 8, 16, 32) if sgf else ():
            there = example.available[rows][:, ::stride, ::stride]
            weights = random.random(there.shape) * there
            maps.append((weights / np.maximum(weights.sum(0), 1e-9)).astype(np.float32))
        answers[subset] = (np.where(seen, random.integers(0, 3, (32, 32)), IGNORE).astype(np.uint8), maps)
    return answers


def random_scenes(seed: int, count: int = 2) -> tuple[SceneAnswers, ...]:
    """Scenes of the same records, and a run's answers to them, drawn."""
    return tuple(
        draw_scene(e, SCHEMA, random_answers(e, seed + i), 384)
        for i, e in enumerate(random_example(i) for i in range(count))
    )
