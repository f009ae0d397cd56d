"""An encoder's first weights: what is written, what is refused, and where they go in a fresh state."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from sgma_jax.config import DataConfig, ModelConfig, PvtV2Config, ResNetConfig, TrainConfig
from sgma_jax.errors import InputError
from sgma_jax.interop.pretrained import import_weights, read_pretrained, start_from, where_to_get
from sgma_jax.kinds import ENCODERS
from sgma_jax.models.network import initial_variables
from sgma_jax.structs import TrainState

RESNET18 = ModelConfig(encoder=ResNetConfig(variant="18"), stem="linear", head_width=16)


@pytest.fixture
def downloaded(tmp_path: Path, state_dict) -> Path:
    path = tmp_path / "resnet18.safetensors"
    save_file({**state_dict("resnet18"), "fc.bias": np.ones(3, np.float32)}, path)
    return path


@pytest.fixture
def imported(tmp_path: Path, downloaded: Path) -> Path:
    out = tmp_path / "weights" / "ours.safetensors"
    assert import_weights(downloaded, "resnet18", out).left_out == ["fc.bias"]
    return out


def test_an_imported_file_holds_the_encoder_and_what_it_came_from(imported: Path, downloaded: Path, arrays_of) -> None:
    weights = read_pretrained(dataclasses.replace(RESNET18, pretrained=str(imported)))
    assert weights.provenance == {
        "file": str(imported),
        "sha256": hashlib.sha256(imported.read_bytes()).hexdigest(),
        "encoder": "resnet18",
        "layout": "torchvision",
        "source": "resnet18.safetensors",
        "source_sha256": hashlib.sha256(downloaded.read_bytes()).hexdigest(),
    }
    arrays = arrays_of("resnet18")
    assert set(weights.arrays) == set(load_file(imported)) == set(arrays)
    for path, array in weights.arrays.items():
        np.testing.assert_array_equal(array, arrays[path])


def test_what_cannot_be_imported_leaves_the_former_file_as_it_was(
    tmp_path: Path, imported: Path, downloaded: Path, state_dict
) -> None:
    before = imported.read_bytes()
    incomplete = state_dict("resnet18")
    del incomplete["conv1.weight"]
    save_file(incomplete, tmp_path / "incomplete.safetensors")
    with pytest.raises(InputError, match=r"incomplete.safetensors: .*missing \(conv1.weight\)"):
        import_weights(tmp_path / "incomplete.safetensors", "resnet18", imported)
    with pytest.raises(InputError, match=r"no encoder 'resnet19'.*resnet152"):
        import_weights(downloaded, "resnet19", imported)
    assert imported.read_bytes() == before
    assert [p.name for p in imported.parent.iterdir()] == [imported.name]
    source = downloaded.read_bytes()
    with pytest.raises(InputError, match="give another --out"):
        import_weights(downloaded, "resnet18", downloaded)
    with pytest.raises(InputError, match="is a folder"):
        import_weights(downloaded, "resnet18", tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        import_weights(downloaded, "resnet18", imported / "inside_a_file")
    assert downloaded.read_bytes() == source


@pytest.mark.parametrize("name", ENCODERS)
def test_a_missing_file_says_where_its_weights_are_and_how_to_import_them(name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_pretrained(ModelConfig(encoder=ENCODERS[name], pretrained="weights/none.safetensors"))
    message, published = str(caught.value), where_to_get(ENCODERS[name])
    if published is None:
        assert name == "plain"
        assert "--model.pretrained ''" in message
        return
    url, file = published
    assert url.startswith("https://")
    assert url in message
    assert f"sgma weights import {file} --encoder {name} --out weights/none.safetensors" in message
    assert re.fullmatch(rf"{name}.*\.pth", file)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, imported: Path, downloaded: Path) -> None:
    with pytest.raises(InputError, match=r"holds resnet18, and the model's encoder is resnet34"):
        read_pretrained(ModelConfig(encoder=ResNetConfig(variant="34"), pretrained=str(imported)))
    with pytest.raises(InputError, match=r"sgma weights import .*resnet18.safetensors --encoder resnet18 --out"):
        read_pretrained(dataclasses.replace(RESNET18, pretrained=str(downloaded)))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(imported.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cut.safetensors"):
        read_pretrained(dataclasses.replace(RESNET18, pretrained=str(cut)))


def test_a_fresh_state_gets_the_encoder_and_sensible_stems_and_nothing_else(imported: Path, arrays_of) -> None:
    data = DataConfig(modalities=("rgb", "dsm", "msi"), bands=(3, 1, 5), classes=("a", "b"), crop=32)
    config = TrainConfig(name="test", data=data, model=dataclasses.replace(RESNET18, pretrained=str(imported)), steps=1)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    fresh = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), shapes)
    state = start_from(
        TrainState(0, fresh["params"], fresh["batch_stats"], None), read_pretrained(config.model), config
    )
    got = flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in flatten_dict(dict(shapes), sep="/").items()}
    arrays = arrays_of("resnet18")
    for path, array in got.items():
        collection, root, *rest = path.split("/")
        if root == "encoder":
            np.testing.assert_array_equal(array, arrays["/".join([collection, *rest])], err_msg=path)
        elif not root.startswith("stem"):
            assert (np.asarray(array) == 7).all(), path
    pixel = np.array([1.0, 2.0, 3.0, 4.0, 5.0], np.float32)
    np.testing.assert_array_equal(pixel[:3] @ got["params/stem_rgb/kernel"], pixel[:3])
    np.testing.assert_array_equal(pixel[:1] @ got["params/stem_dsm/kernel"], [1, 1, 1])
    np.testing.assert_allclose(pixel @ got["params/stem_msi/kernel"], [3, 3, 3], rtol=1e-6)


def test_every_array_lies_where_the_random_one_lay(imported: Path) -> None:
    config = TrainConfig(
        name="test",
        data=DataConfig(modalities=("rgb",), bands=(3,), classes=("a", "b"), crop=32),
        steps=1,
        model=dataclasses.replace(RESNET18, pretrained=str(imported)),
    )
    device = jax.devices()[-1]
    fresh = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, np.float32), device),
        jax.eval_shape(lambda: initial_variables(config)),
    )
    state = start_from(
        TrainState(0, fresh["params"], fresh["batch_stats"], None), read_pretrained(config.model), config
    )
    for before, after in zip(
        jax.tree.leaves(fresh), jax.tree.leaves({"batch_stats": state.batch_stats, "params": state.params}), strict=True
    ):
        assert after.sharding == before.sharding
        assert after.dtype == before.dtype


def test_encoders_have_the_names_that_the_command_line_takes() -> None:
    assert ENCODERS["pvt_v2_b5"] == PvtV2Config(variant="b5")
    assert ENCODERS["resnet152"] == ResNetConfig(variant="152")
