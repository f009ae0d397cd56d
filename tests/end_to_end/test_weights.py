"""From a PyTorch file to a run and back, through the commands a user gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sgma_jax.config import ModelConfig, from_json
from sgma_jax.interop.torch_weights import encoder_shapes, state_dict_of, variables_of
from sgma_jax.kinds import ENCODERS
from sgma_jax.models.network import initial_variables
from sgma_jax.runs.checkpoints import restore_newest_model
from sgma_jax.runs.folder import read_config
from sgma_jax.sharding import make_mesh, with_sharding

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PVT-v2-b0 as timm would publish it."""
    path = tmp_path_factory.mktemp("downloaded") / "timm.safetensors"
    rng = np.random.default_rng(5)
    arrays = {
        k: rng.normal(0.0, 0.1, shape).astype(np.float32) for k, shape in encoder_shapes(ENCODERS["pvt_v2_b0"]).items()
    }
    variables = unflatten_dict({k.replace("params/", "params/encoder/"): v for k, v in arrays.items()}, sep="/")
    state_dict = state_dict_of(variables, ModelConfig(encoder=ENCODERS["pvt_v2_b0"]), "timm")
    save_file({k.removeprefix("encoder."): v for k, v in state_dict.items()}, path)
    return path


def newest_variables(run: Path) -> tuple[dict, dict]:
    config = read_config(run)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    return restore_newest_model(run, with_sharding(shapes, make_mesh(1)))[1], shapes


@pytest.mark.slow
def test_a_run_begins_with_imported_weights_and_goes_on_without_their_file(
    downloaded: Path, tiny_city: Path, pvt_preset: Path, tmp_path: Path, sgma: Command
) -> None:
    ours, run = tmp_path / "ours.safetensors", tmp_path / "run"
    status, out, _ = sgma("weights", "import", downloaded, "--encoder", "pvt_v2_b0", "--out", ours)
    assert status == 0
    assert "timm" in out
    train = ("train", pvt_preset, "--workdir", run, "--data.path", tiny_city, "--model.pretrained", ours)
    status, _, err = sgma(*train, "--stop-after", 1)
    assert status == 0, err
    assert "timm.safetensors" in err
    assert json.loads((run / "pretrained.json").read_text())["sha256"] == hashlib.sha256(ours.read_bytes()).hexdigest()
    params = flatten_dict(newest_variables(run)[0]["params"]["encoder"], sep="/")
    # AdamW's first step moves a number by the learning rate, here a tenth of 1e-3, at most; random weights would be 0.1
    # away.
    for path, array in load_file(ours).items():
        np.testing.assert_allclose(params[path.removeprefix("params/")], array, atol=2e-4, err_msg=path)
    ours.unlink()
    status, _, err = sgma(*train, "--stop-after", 2)
    assert status == 0, err
    assert "resuming" in err

    out_file = tmp_path / "exported.safetensors"
    assert sgma("weights", "export", run, "--out", out_file, "--layout", "transformers")[0] == 0
    exported = load_file(out_file)
    assert exported["encoder.encoder.layers.0.blocks.0.attention.key.weight"].shape == (32, 32)
    with safe_open(out_file, "numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["encoder"], metadata["layout"], metadata["step"]) == (
        "pt",
        "pvt_v2_b0",
        "transformers",
        "2",
    )
    assert from_json(metadata["config"]) == read_config(run)
    variables, shapes = newest_variables(run)
    back = variables_of(exported, read_config(run).model, shapes)
    for left, right in zip(jax.tree.leaves(back), jax.tree.leaves(dict(variables)), strict=True):
        np.testing.assert_array_equal(left, right)


def assert_one_line(result: tuple[int, str, str], *words: str) -> None:
    status, _, err = result
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    for word in ("error: ", *words):
        assert word in err


def test_a_missing_file_stops_a_run_before_anything_is_written(
    tiny_city: Path, pvt_preset: Path, tmp_path: Path, sgma: Command
) -> None:
    run = tmp_path / "run"
    result = sgma(
        "train",
        pvt_preset,
        "--workdir",
        run,
        "--data.path",
        tiny_city,
        "--model.pretrained",
        tmp_path / "none.safetensors",
    )
    assert_one_line(result, "github.com/whai362/PVT", "sgma weights import pvt_v2_b0.pth --encoder pvt_v2_b0 --out")
    assert not run.exists()


def test_bad_words_after_weights_are_one_line(downloaded: Path, tmp_path: Path, sgma: Command) -> None:
    assert_one_line(sgma("weights"), "import", "export")
    assert_one_line(sgma("weights", "list"), "import", "export")
    assert_one_line(
        sgma("weights", "import", downloaded, "--encoder", "resnet18", "--out", tmp_path / "x"),
        "timm.safetensors",
        "resnet18",
    )
    assert_one_line(sgma("weights", "export", tmp_path, "--out", tmp_path / "x"), "is not a run")
    assert not (tmp_path / "x").exists()
    assert "sgma weights export RUN" in sgma("weights", "--help")[1]
