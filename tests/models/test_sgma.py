"""The whole network: what absent sensors may change (nothing), skipping against masking, and that everything learns."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgma_jax.config import (
    DataConfig,
    MeanFusionConfig,
    ModelConfig,
    PlainConfig,
    PvtV2Config,
    ResNetConfig,
    SamplingConfig,
    TrainConfig,
)
from sgma_jax.modalities import subsets
from sgma_jax.models.encoders import pvt_v2
from sgma_jax.models.encoders.pvt_v2 import VARIANTS, PvtV2
from sgma_jax.models.inspection import inspect_model
from sgma_jax.models.network import initial_variables, make_model
from sgma_jax.training.losses import pixel_weights, weighted_loss

CONFIG = TrainConfig(
    name="test",
    data=DataConfig(modalities=("rgb", "dsm", "nir"), bands=(3, 1, 1), classes=("a", "b", "c"), crop=64),
    model=ModelConfig(encoder=PvtV2Config(variant="b0", drop_path_rate=0.1), head_width=32),
    steps=1,
)
BATCH, SIDE = 2, 64
ENCODERS = {"plain": PlainConfig(), "pvt_v2_b0": CONFIG.model.encoder, "resnet18": ResNetConfig(variant="18")}
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@functools.cache
def programs(encoder: str = "plain"):
    """Model, variables, and the compiled loss gradient and prediction, shared by the tests.

    SGF is behind the plain encoder, and mean fusion behind the others: each is compiled once.
    """
    fusion = CONFIG.model.fusion if encoder == "plain" else MeanFusionConfig()
    kinds = dataclasses.replace(CONFIG.model, encoder=ENCODERS[encoder], fusion=fusion)
    config = dataclasses.replace(CONFIG, model=kinds)
    model, variables = make_model(config), jax.jit(lambda: initial_variables(config))()

    def loss(params, batch):
        outputs, updates = model.apply(
            {**variables, "params": params},
            batch["images"],
            batch["available"],
            kept=batch["kept"],
            drawn=batch["drawn"],
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )

        def mean(branch):
            weights = pixel_weights(batch["labels"], branch.answered)
            return weighted_loss(CONFIG.loss, branch.logits, batch["labels"], weights) / jnp.maximum(weights.sum(), 1)

        return 2 * mean(outputs) + mean(outputs.second), (outputs.robustness, updates["batch_stats"])

    def predict(images, available, subset=None):
        return model.apply(variables, images, available, subset=subset)

    return model, variables, jax.jit(jax.value_and_grad(loss, has_aux=True)), jax.jit(predict)


def batch_of(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    images = {
        m: rng.normal(size=(BATCH, SIDE, SIDE, b)).astype(np.float32)
        for m, b in zip(("rgb", "dsm", "nir"), (3, 1, 1), strict=True)
    }
    return {
        "images": images,
        "available": np.ones((BATCH, 3, SIDE, SIDE), bool),
        "kept": np.ones((BATCH, 3), bool),
        "drawn": np.array([1, 2], np.int32),
        "labels": rng.integers(0, 3, size=(BATCH, SIDE, SIDE)).astype(np.int32),
    }


@pytest.mark.parametrize("encoder", ["plain", "pvt_v2_b0", pytest.param("resnet18", marks=pytest.mark.long)])
@settings(max_examples=6)
@given(seed=st.integers(0, 100), whole=st.booleans())
def test_absent_pixels_cannot_change_anything_to_the_bit(encoder: str, seed: int, whole: bool) -> None:
    """Absent pixels at 0, 1e6 and NaN: loss, robustness, running statistics and every gradient are the same bits."""
    _, variables, gradient, _ = programs(encoder)
    batch = batch_of(seed)
    rng = np.random.default_rng(seed)
    batch["available"][0, 1] = False
    if not whole:
        batch["available"][1, :, : SIDE // 2] = rng.random((3, SIDE // 2, SIDE)) < 0.7
    batch["available"][1, 2, 0, 0] = False
    batch["drawn"] = np.array([0, 1], np.int32)
    results = []
    for value in (0.0, 1e6, np.nan):
        images = {
            m: np.where(batch["available"][:, i, ..., None], batch["images"][m], np.float32(value))
            for i, m in enumerate(CONFIG.data.modalities)
        }
        results.append(jax.tree.leaves(gradient(variables["params"], {**batch, "images": images})))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)


@every_encoder
def test_a_modality_that_dropout_took_changes_the_mas_branch_alone(encoder: str) -> None:
    _, variables, gradient, _ = programs(encoder)
    batch = batch_of(0)
    batch["kept"][:, 1] = False
    batch["drawn"][:] = 0
    (loss, _), _ = gradient(variables["params"], batch)
    changed = {**batch, "images": {**batch["images"], "dsm": batch["images"]["dsm"] + 1}}
    (same, _), _ = gradient(variables["params"], changed)
    assert loss == same
    drawn = {"drawn": np.array([1, 1], np.int32)}
    assert (
        gradient(variables["params"], {**batch, **drawn})[0][0]
        != gradient(variables["params"], {**changed, **drawn})[0][0]
    )


@every_encoder
def test_every_parameters_gradient_is_a_visible_share_of_the_norm(encoder: str) -> None:
    """Where prototypes differ: at the start all classes' are nearly the same, and so the scores that compare them."""
    _, variables, gradient, _ = programs(encoder)

    def apart(path: Any, x: jax.Array) -> jax.Array:
        return 10.0 * x if {k.key for k in path} & {"semantic_filter", "spatial"} else x

    _, gradients = gradient(jax.tree_util.tree_map_with_path(apart, variables["params"]), batch_of(0))
    whole = float(optax.tree.norm(gradients))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        names = [k.key for k in path]
        # A key's bias shifts all scores of a softmax alike, and the normalisation behind the head's layers takes their
        # biases out: the true gradients are 0, and what comes out is rounding.
        # So it is, behind mean fusion, with the biases of the encoder's last norms.
        zero = r"\bkey/bias|head/linear_\d_bias" + (r"|stage\d_norm/bias" if encoder == "pvt_v2_b0" else "")
        if re.search(zero, "/".join(names)):
            continue
        assert float(jnp.linalg.norm(leaf.ravel())) > 1e-7 * whole, jax.tree_util.keystr(path)


def test_stochastic_depth_grows_evenly_from_nothing_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        """Carries the rates; the layers need not be computed."""

    def ask(key: jax.Array, rates: jax.Array, batch: int) -> jax.Array:
        raise Asked(rates)

    monkeypatch.setattr(pvt_v2, "drop_path_factors", ask)
    encoder = PvtV2(PvtV2Config(variant="b0", drop_path_rate=0.3), jnp.dtype("float32"))
    image, seen = jnp.zeros((1, 32, 32, 3)), jnp.ones((1, 32, 32), bool)
    with pytest.raises(Asked) as asked:
        encoder.apply({}, image, seen, True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_allclose(asked.value.args[0], np.repeat(np.linspace(0.0, 0.3, 8), 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "subset"), [*(("plain", s) for s in subsets((0, 1, 2))), ("pvt_v2_b0", (0, 1)), ("resnet18", (0, 2))]
)
def test_skipping_absent_sensors_gives_what_masking_them_gives(encoder: str, subset: tuple[int, ...]) -> None:
    *_, predict = programs(encoder)
    batch = batch_of(1)
    batch["available"][0, 0, :20] = False  # on top of sensors that are missing in part
    present = np.zeros(3, bool)
    present[list(subset)] = True
    masked = predict(batch["images"], batch["available"] & present[None, :, None, None])
    skipped = predict(batch["images"], batch["available"], np.array(subset, np.int32))
    np.testing.assert_allclose(skipped.logits, masked.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(skipped.answered, masked.answered)
    for a, b in zip(skipped.robustness, masked.robustness, strict=True):
        np.testing.assert_allclose(a, np.asarray(b)[:, list(subset)], rtol=1e-5, atol=1e-5)
        assert (np.asarray(b)[:, ~present] == 0).all()


def test_where_no_sensor_is_left_there_is_no_data_and_never_nan() -> None:
    *_, predict = programs()
    batch = batch_of(2)
    batch["available"][0] = False
    batch["available"][1, :, :32, :32] = False
    outputs = predict(
        {m: np.full_like(x, np.nan) for m, x in batch["images"].items()}, np.zeros_like(batch["available"])
    )
    assert np.isfinite(outputs.logits).all()
    assert not np.asarray(outputs.answered).any()
    outputs = predict(batch["images"], batch["available"])
    answered = np.asarray(outputs.answered)
    assert not answered[0].any()
    assert not answered[1, :32, :32].any()
    assert answered[1, 32:].all()
    assert answered[1, :32, 32:].all()
    assert np.isfinite(outputs.logits).all()


def test_an_isolated_pixel_that_no_scale_sees_is_no_data() -> None:
    *_, predict = programs()
    batch = batch_of(2)
    batch["available"][:] = False
    batch["available"][:, 0, 5, 5] = True
    assert not np.asarray(predict(batch["images"], batch["available"]).answered).any()


def test_availability_per_sample_is_availability_of_all_its_pixels() -> None:
    *_, predict = programs()
    batch = batch_of(3)
    per_sample = np.array([[True, False, True], [False, True, True]])
    per_pixel = predict(batch["images"], np.broadcast_to(per_sample[:, :, None, None], batch["available"].shape))
    np.testing.assert_allclose(predict(batch["images"], per_sample).logits, per_pixel.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "fusion", "stem", "magnify", "dtype"),
    [
        ("resnet18", "mean", "replicate", 1, "bfloat16"),
        ("plain", "sgf", "linear", 2, "float32"),
        ("plain", "sgf", "replicate", 1, "bfloat16"),
        ("pvt_v2_b0", "mean", "linear", 1, "bfloat16"),
    ],
)
def test_every_kind_of_model_runs_at_odd_sizes(encoder: str, fusion: str, stem: str, magnify: int, dtype: str) -> None:
    kinds = {"encoder": ENCODERS[encoder], "stem": stem, "magnify": magnify, "dtype": dtype} | (
        {"fusion": MeanFusionConfig()} if fusion == "mean" else {}
    )
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **kinds), data=dataclasses.replace(CONFIG.data, bands=(3, 1, 1))
    )
    variables = jax.jit(lambda: initial_variables(config))()
    images = {m: jnp.ones((1, 45, 37, b)) for m, b in zip(config.data.modalities, config.data.bands, strict=True)}
    outputs = jax.jit(make_model(config).apply)(variables, images, jnp.ones((1, 3), bool))
    assert outputs.logits.shape == (1, 45, 37, 3)
    assert outputs.logits.dtype == jnp.float32
    assert np.isfinite(outputs.logits).all()
    assert [r.shape[2:] for r in outputs.robustness] == [
        (-(-45 * magnify // s), -(-37 * magnify // s)) for s in (4, 8, 16, 32)
    ]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables["params"]))


# Table 1 of arXiv 2106.13797 gives parameters in millions with the 1000-way classifier, which has channels x 1000 +
# 1000.
@pytest.mark.parametrize(
    ("variant", "millions"), [("b0", 3.4), ("b1", 13.1), ("b2", 25.4), ("b3", 45.2), ("b4", 62.6), ("b5", 82.0)]
)
def test_every_variant_of_the_encoder_has_its_published_size(variant: str, millions: float) -> None:
    encoder = PvtV2(PvtV2Config(variant=variant), jnp.dtype("float32"))
    shapes = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 64, 64), bool), False)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + VARIANTS[variant].channels[-1] * 1000 + 1000
    # The authors' checkpoints hold 3.67 and 14.01 million for b0 and b1, where the table prints 3.4 and 13.1; the
    # others agree.
    published = {"b0": 3.67, "b1": 14.01}.get(variant, millions)
    assert abs(count / 1e6 - published) < 0.05


def test_inspection_finds_the_papers_figures() -> None:
    """4,790,272 fusion parameters (paper: 4.79 M), and fewer multiply-adds than the paper's 9.47 G for it."""
    potsdam = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, classes=("a", "b", "c", "d", "e"), crop=512),
        model=ModelConfig(encoder=PvtV2Config(variant="b2")),
        sampling=SamplingConfig(),
    )
    parts = inspect_model(potsdam, 512)["parts"]
    assert parts["fusion"]["parameters"] == 4_790_272
    assert 4.0e9 < parts["fusion"]["multiply_adds"] <= 5.0e9
    assert parts["encoder"]["parameters"] == 24_849_856
    # 4.0 G for one 224 x 224 image in table 1 of arXiv 2106.13797; three images of 512 x 512 are 15.7 times the pixels,
    # attention more.
    assert parts["encoder"]["multiply_adds"] > 15.7 * 3.8e9
