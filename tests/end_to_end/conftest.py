"""A tiny city, a tiny preset, and the `sgma` command, for tests that go the whole way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data_prep.synthetic import Options, convert_city
from sgma_jax.cli import main

PRESET = """
from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PlainConfig, SamplingConfig, TrainConfig

config = TrainConfig(
    name="tiny",
    data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("impervious", "building", "low_vegetation", "tree", "car"),
                    crop=32, batch_size=2, evaluation_batch_size=2),
    model=ModelConfig(encoder=PlainConfig(), head_width=16),
    sampling=SamplingConfig(granularity="sample"),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=20, warmup_steps=2, evaluate_every=10, log_every=1,
)
"""


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted city of a few small tiles."""
    out = tmp_path_factory.mktemp("tiny_city") / "set"
    convert_city(Options(out=out, size=64, train=7, validation=2, test=3))
    return out


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset file for that city."""
    path = tmp_path_factory.mktemp("presets") / "tiny.py"
    path.write_text(PRESET)
    return path


@pytest.fixture(scope="session")
def pvt_preset(tiny_preset: Path) -> Path:
    """The tiny preset with PVT-v2, for which weights are published."""
    path = tiny_preset.with_name("pvt.py")
    words = tiny_preset.read_text().replace("PlainConfig()", 'PvtV2Config(variant="b0")')
    path.write_text(words.replace("PlainConfig", "PvtV2Config"))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_city: Path, tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny preset: 20 steps in one go."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["sgma", "train", str(tiny_preset), "--workdir", str(folder), "--data.path", str(tiny_city)]
        )
        main()
    return folder
