"""What the loop hands from one part to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_prep.builder import Conversion, convert
from sgma_jax.config import DataConfig, MeanFusionConfig, ModelConfig, PlainConfig, SamplingConfig, TrainConfig
from sgma_jax.data.schema import Example, Modality, Schema
from sgma_jax.data.source import open_source
from sgma_jax.runs.checkpoints import Checkpoints
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.training.fit import train
from sgma_jax.training.sampling import SamplingTable

SCHEMA = Schema(
    "toy",
    (Modality("rgb", 3, "", "uint8"), Modality("dsm", 1, "metre", "float32")),
    ("ground", "roof"),
    ((0, 0, 0), (9, 9, 9)),
    32,
)


def one_sensor_each(key: tuple[str, int]) -> Example:
    """Even records have colour alone, every third height alone, the others both."""
    rng = np.random.default_rng(key[1])
    available = np.ones((2, 32, 32), bool)
    if key[1] % 2 == 0:
        available[1] = False
    elif key[1] % 3 == 0:
        available[0] = False
    images = {"rgb": rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), "dsm": rng.random((32, 32, 1), np.float32)}
    return Example(images, available, rng.integers(0, 2, (32, 32)).astype(np.uint8), f"{key[0]}-{key[1]}")


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of eight steps, and what its sampling table and its checkpoints were told."""
    folder = tmp_path_factory.mktemp("fit")
    keys = {split: [(split, i) for i in range(n)] for split, n in (("train", 8), ("validation", 2), ("test", 1))}
    convert(Conversion(SCHEMA, keys, one_sensor_each, converter="tests"), folder / "set")
    config = TrainConfig(
        name="spied",
        data=DataConfig(
            path=str(folder / "set"),
            modalities=("rgb", "dsm"),
            bands=(3, 1),
            classes=SCHEMA.classes,
            crop=32,
            batch_size=4,
        ),
        model=ModelConfig(encoder=PlainConfig(), fusion=MeanFusionConfig(), head_width=8),
        sampling=SamplingConfig(),
        steps=8,
        warmup_steps=2,
        evaluate_every=4,
    )
    draws: list[Any] = []
    scored: dict[int, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        draw, told = SamplingTable.draw, Checkpoints.scored

        def drawing(table: SamplingTable, present: Any, ids: Any, step: int) -> Any:
            drawn = draw(table, present, ids, step)
            draws.extend(zip(ids, present, drawn, strict=True))
            return drawn

        def telling(checkpoints: Checkpoints, step: int, score: Any) -> None:
            scored[step] = score
            told(checkpoints, step, score)

        patch.setattr(SamplingTable, "draw", drawing)
        patch.setattr(Checkpoints, "scored", telling)
        train(config, folder / "run")
    return {"draws": draws, "scored": scored, "folder": folder}


def test_a_sensor_is_drawn_out_of_those_that_the_record_has(spied: dict[str, Any]) -> None:
    source = open_source(spied["folder"] / "set", "train")
    assert len(spied["draws"]) == 32
    for record, present, drawn in spied["draws"]:
        np.testing.assert_array_equal(present, source[int(record)].available.any((1, 2)))
        assert present[drawn]


def test_the_best_checkpoints_are_those_of_the_best_average(spied: dict[str, Any]) -> None:
    lines = [line for line in read_metrics(spied["folder"] / "run" / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert spied["scored"] == {line["step"]: line["average"] for line in lines}
    assert all(line["average"] not in (line["last1"], *line["miou"].values()) for line in lines)
