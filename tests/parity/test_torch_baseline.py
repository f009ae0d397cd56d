"""The PyTorch baseline as a program: it trains on a converted set and leaves the files that a run of `sgma` leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.synthetic import Options, convert_city
from sgma_jax.runs.metrics_log import read_metrics
from sgma_jax.training.step import robustness_report

torch = pytest.importorskip("torch", reason="PyTorch is not installed; make test-parity installs it")

from experiments.torch_baseline import evaluate, train  # noqa: E402
from experiments.torch_baseline.optimization import sampling_report  # noqa: E402
from experiments.torch_baseline.sgma import Outputs  # noqa: E402

pytestmark = pytest.mark.parity

PRESET = """
from sgma_jax.config import DataConfig, MeanFusionConfig, ModelConfig, OptimizerConfig, PvtV2Config, SamplingConfig, TrainConfig

config = TrainConfig(
    name="tiny",
    data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("impervious", "building", "low_vegetation", "tree", "car"),
                    crop=32, batch_size=2, evaluation_batch_size=2),
    model=ModelConfig(encoder=PvtV2Config(variant="b0"), head_width=16{fusion}),
    sampling={sampling},
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=12, warmup_steps=2, evaluate_every=6, log_every=1,
)
"""
PRESETS = {
    "sgf and mas": PRESET.format(fusion="", sampling="SamplingConfig()"),
    "mean": PRESET.format(fusion=", fusion=MeanFusionConfig()", sampling="None"),
}


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("city") / "set"
    convert_city(Options(out=out, size=64, train=6, validation=2, test=3))
    return out


def run(monkeypatch: pytest.MonkeyPatch, module, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    try:
        module.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("kind", PRESETS)
def test_the_baseline_trains_and_leaves_what_sgma_leaves(
    kind: str, city: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    preset, folder = tmp_path / "preset.py", tmp_path / "run"
    preset.write_text(PRESETS[kind])
    assert run(monkeypatch, train, preset, "--workdir", folder, "--data.path", city) == 0
    lines = read_metrics(folder / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [6, 12]
    assert ("loss_mas" in lines[0]) == ("sampling" in lines[0]) == (kind == "sgf and mas")

    assert run(monkeypatch, evaluate, folder, "--split", "test") == 0
    report = json.loads((folder / "evaluation" / "test.json").read_text())
    assert [row["modalities"] for row in report["subsets"]] == [["rgb"], ["dsm"], ["rgb", "dsm"]]
    assert all(0 <= row["miou"] <= 1 and 0 < row["coverage"] <= 1 for row in report["subsets"])
    assert set(report) == {
        "split",
        "version",
        "modalities",
        "classes",
        "missing",
        "subsets",
        "average",
        "top1",
        "last1",
        "bernoulli",
        "provenance",
    }
    assert report["provenance"]["checkpoint_step"] == 12
    assert "torch" in report["provenance"]["versions"]

    former = (folder / "model.pt").read_bytes()
    capsys.readouterr()
    assert run(monkeypatch, train, preset, "--workdir", folder, "--data.path", city) == 2
    assert "use another --workdir" in capsys.readouterr().err
    assert (folder / "model.pt").read_bytes() == former
    (folder / "model.pt").write_bytes(former[: len(former) // 2])
    assert run(monkeypatch, evaluate, folder) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_the_sampling_table_is_told_is_what_sgma_tells_it() -> None:
    rng = np.random.default_rng(0)
    sees = tuple(rng.random((4, 3, n, n)) < 0.6 for n in (8, 4, 2, 1))
    robustness = tuple(np.where(s, rng.random(s.shape), 0).astype(np.float32) for s in sees)
    want = robustness_report(tuple(map(jnp.asarray, robustness)), tuple(map(jnp.asarray, sees)))
    got = sampling_report(
        Outputs(None, None, tuple(map(torch.from_numpy, robustness)), tuple(map(torch.from_numpy, sees)), None)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(got[1], want[1])
