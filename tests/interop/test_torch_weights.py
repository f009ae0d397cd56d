"""Between our variables and PyTorch's names: everything is accounted for, and there and back is the same bits."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from experiments.compare.methods import METHODS
from experiments.demo import config as DEMO
from sgma_jax.config import (
    DataConfig,
    MeanFusionConfig,
    ModelConfig,
    PlainConfig,
    PvtV2Config,
    ResNetConfig,
    TrainConfig,
)
from sgma_jax.errors import InputError
from sgma_jax.interop.torch_names import encoder_table, entries
from sgma_jax.interop.torch_weights import block_by_block, encoder_shapes, import_encoder, state_dict_of, variables_of
from sgma_jax.kinds import ENCODERS
from sgma_jax.models.network import initial_variables

LAYOUTS = [
    (name, layout) for name in ("pvt_v2_b0", "resnet18", "resnet50") for layout in encoder_table(ENCODERS[name]).layouts
]


@pytest.mark.parametrize("name", ENCODERS)
def test_every_array_of_every_variant_has_its_own_place_in_every_layout(name: str) -> None:
    shapes = block_by_block(encoder_shapes(ENCODERS[name]), lambda shape, _: shape[1:])
    for layout in encoder_table(ENCODERS[name]).layouts:
        found = entries(shapes, encoder_table(ENCODERS[name]), layout)
        assert [e.path for e in found] == list(shapes)
        places = {(e.name, e.part) for e in found}
        assert len(places) == len(found)
        assert all((e.name, part) in places for e in found for part in range(e.parts))


def test_the_names_are_those_that_others_publish(state_dict) -> None:
    """A few of each layout, copied from the projects' own modules; tests/parity loads whole models of transformers."""
    authors, timm = state_dict("pvt_v2_b0", "authors"), state_dict("pvt_v2_b0", "timm")
    assert authors["patch_embed1.proj.weight"].shape == timm["patch_embed.proj.weight"].shape == (32, 3, 7, 7)
    assert authors["block1.0.attn.kv.weight"].shape == timm["stages.0.blocks.0.attn.kv.weight"].shape == (64, 32)
    assert authors["block1.1.attn.sr.weight"].shape == timm["stages.0.blocks.1.attn.sr.weight"].shape == (32, 32, 8, 8)
    assert (
        authors["block2.0.mlp.dwconv.dwconv.weight"].shape
        == timm["stages.1.blocks.0.mlp.dwconv.weight"].shape
        == (512, 1, 3, 3)
    )
    assert authors["patch_embed2.norm.bias"].shape == timm["stages.1.downsample.norm.bias"].shape == (64,)
    assert authors["norm4.weight"].shape == timm["stages.3.norm.weight"].shape == (256,)
    assert not any(".3.blocks.0.attn.sr" in k or "block4.0.attn.sr" in k for k in (*authors, *timm))
    torchvision = state_dict("resnet50", "torchvision")
    assert torchvision["conv1.weight"].shape == (64, 3, 7, 7)
    assert torchvision["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert torchvision["layer4.2.bn3.running_var"].shape == (2048,)
    assert len(torchvision) == 265  # of torchvision's 320 names, less 53 counts of batches and the classifier's two


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_there_and_back_is_the_same_bits(name: str, layout: str, arrays_of, state_dict) -> None:
    imported = import_encoder(state_dict(name, layout), ENCODERS[name])
    assert imported.layout in (layout, "torchvision")  # timm has torchvision's names
    assert imported.left_out == []
    arrays = arrays_of(name)
    assert set(imported.arrays) == set(arrays)
    for path, array in imported.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


def test_keys_lie_before_values_in_the_authors_one_tensor(arrays_of, state_dict) -> None:
    kv, arrays = state_dict("pvt_v2_b0", "authors")["block1.0.attn.kv.weight"], arrays_of("pvt_v2_b0")
    np.testing.assert_array_equal(kv[:32], arrays["params/stage0_blocks/attention/key/kernel"][0].T)
    np.testing.assert_array_equal(kv[32:], arrays["params/stage0_blocks/attention/value/kernel"][0].T)


def test_classifiers_counts_prefixes_and_half_precision_are_understood(state_dict) -> None:
    given = {"pvt_v2." + k: v.astype(np.float16) for k, v in state_dict("pvt_v2_b0", "transformers").items()}
    imported = import_encoder(
        {**given, "classifier.weight": np.ones((1000, 256)), "classifier.bias": np.ones(1000)}, ENCODERS["pvt_v2_b0"]
    )
    assert imported.left_out == ["classifier.weight", "classifier.bias"]
    assert {a.dtype for a in imported.arrays.values()} == {np.dtype(np.float32)}
    given = state_dict("resnet18", "torchvision")
    extra = {"bn1.num_batches_tracked": np.array(7), "fc.weight": np.ones((1000, 512)), "fc.bias": np.ones(1000)}
    assert import_encoder({**given, **extra}, ENCODERS["resnet18"]).left_out == list(extra)


def test_all_misses_are_told_together_and_nothing_is_loaded(state_dict) -> None:
    given = state_dict("resnet18")
    del given["layer1.0.conv1.weight"]
    given["layer9.0.conv1.weight"] = np.zeros(3, np.float32)
    given["nowhere.num_batches_tracked"] = np.array(3)
    given["bn1.weight"] = given["bn1.weight"][:5]
    given["bn1.bias"] = np.full_like(given["bn1.bias"], np.nan)
    given["bn1.running_mean"] = given["bn1.running_mean"].astype(np.int64)
    with pytest.raises(InputError) as caught:
        import_encoder(given, ENCODERS["resnet18"])
    message = str(caught.value)
    for word in ("resnet18", "torchvision", "1 missing (layer1.0.conv1.weight)", ("2 unexpected "
                                                                                  "(layer9.0.conv1.weight, "
                                                                                 "nowhere.num_batches_tracked)"),
                 "bn1.weight (5,) for (64,)", "bn1.bias not finite", "bn1.running_mean of int64"):  # fmt: skip
        assert word in message, message


@pytest.fixture(scope="module")
def timm_b0(state_dict) -> dict[str, np.ndarray]:
    return state_dict("pvt_v2_b0", "timm")


@given(st.data())
def test_no_key_of_a_file_can_be_lost_or_renamed_unnoticed(timm_b0, data: st.DataObject) -> None:
    name, renamed = data.draw(st.sampled_from(sorted(timm_b0))), data.draw(st.booleans())
    broken = {(k + "x" if k == name else k): v for k, v in timm_b0.items() if renamed or k != name}
    with pytest.raises(InputError) as caught:
        import_encoder(broken, ENCODERS["pvt_v2_b0"])
    assert f"missing ({name})" in str(caught.value)
    assert (f"unexpected ({name}x)" in str(caught.value)) == renamed


@pytest.mark.parametrize(
    ("given", "asked"),
    [("pvt_v2_b0", "pvt_v2_b1"), ("pvt_v2_b1", "pvt_v2_b2"), ("resnet18", "resnet34"), ("resnet18", "resnet50")],
)
def test_weights_of_another_variant_are_refused(given: str, asked: str, state_dict) -> None:
    with pytest.raises(InputError, match=f"no {asked} in the layout"):
        import_encoder(state_dict(given), ENCODERS[asked])


@pytest.mark.parametrize("given", [{}, {"something.else": np.zeros(3)}])
def test_a_file_of_another_family_is_refused_with_the_layouts_that_are_known(given: dict) -> None:
    with pytest.raises(InputError, match="authors, timm, transformers"):
        import_encoder(given, ENCODERS["pvt_v2_b0"])


MODELS = {
    "pvt_sgf_linear": ModelConfig(encoder=PvtV2Config(variant="b0"), stem="linear", head_width=16),
    "resnet_mean": ModelConfig(encoder=ResNetConfig(variant="18"), fusion=MeanFusionConfig(), head_width=16),
}


@pytest.mark.parametrize(
    ("kind", "layout"), [("pvt_sgf_linear", None), ("pvt_sgf_linear", "transformers"), ("resnet_mean", "timm")]
)
def test_a_whole_model_goes_there_and_back_to_the_bit(kind: str, layout: str | None) -> None:
    data = DataConfig(
        modalities=("rgb", "sar_vv"), bands=(3, 2 if kind == "pvt_sgf_linear" else 1), classes=("a", "b", "c"), crop=32
    )
    config = TrainConfig(name="test", data=data, model=MODELS[kind], steps=1)
    shapes = jax.eval_shape(lambda: initial_variables(config))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    exported = state_dict_of(variables, config.model, layout)
    assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in exported.values())
    if kind == "pvt_sgf_linear":
        assert exported["stem.sar_vv.weight"].shape == (3, 2, 1, 1)
        assert exported["fusion.3.projectors.sar_vv.dw11.weight"].shape == (256, 1, 11, 11)
        assert exported["fusion.1.semantic_filter.weight"].shape == (3, 64, 1, 1)
        assert exported["fusion.0.spatial.in_proj_weight"].shape == (96, 32)
        assert exported["head.linear.2.weight"].shape == (16, 160)
    back = variables_of(exported, config.model, shapes)
    flat = flatten_dict(dict(variables))
    assert set(flatten_dict(back)) == set(flat)
    for path, array in flatten_dict(back).items():
        np.testing.assert_array_equal(array, flat[path], err_msg="/".join(path))
    del exported["head.classifier.bias"]
    with pytest.raises(InputError, match=r"missing \(head.classifier.bias\)"):
        variables_of(exported, config.model, shapes)


def test_a_layout_of_the_other_family_is_refused(state_dict) -> None:
    with pytest.raises(InputError, match=r"pvt_v2_b0 has no layout 'torchvision'; it has authors, timm, transformers"):
        state_dict("pvt_v2_b0", "torchvision")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_comparison_is_exported_whole_and_comes_back(method: str) -> None:
    config = METHODS[method](DEMO)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=PlainConfig(), stem="linear"))
    shapes = jax.eval_shape(lambda: initial_variables(config))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    exported = state_dict_of(variables, config.model)
    assert sum(a.size for a in exported.values()) == sum(x.size for x in jax.tree.leaves(variables))
    again = variables_of(exported, config.model, shapes)
    for (path, mine), (_, theirs) in zip(*map(jax.tree_util.tree_leaves_with_path, (variables, again)), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=jax.tree_util.keystr(path))
