"""The fusions that SGMA is compared with, against plain forms of what their descriptions say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgma_jax.availability import STRIDES, Availability
from sgma_jax.config import FusionTokenConfig
from sgma_jax.models.fusions.fused import Fused, equal_shares
from sgma_jax.models.fusions.token import ContrastAndReconstruction
from tests.models.fusions import BATCH, CHANNELS, HEIGHT, SENSORS, SHAPE, WIDTH, features_of, mask_of, programs


@pytest.mark.parametrize("name", ["ConcatenationFusionConfig", "learned"])
def test_concatenation_is_a_convolution_of_what_stands_side_by_side(name: str) -> None:
    params, run, _ = programs(name)
    features, available = features_of(4), mask_of(4)
    zeros = np.zeros(CHANNELS, np.float32)
    stand_ins = np.stack([params.get(f"stand_in_{m}", zeros) for m in SENSORS])
    assert stand_ins.any() == (name == "learned")
    beside = np.where(available[..., None], features, stand_ins[:, None, None])
    concatenated = np.moveaxis(beside, 1, 3).reshape(BATCH, HEIGHT, WIDTH, -1)
    kernel = np.concatenate([params[f"linear_{m}"]["kernel"] for m in SENSORS])
    assert np.abs(kernel).max() <= np.sqrt(6 / sum(kernel.shape))  # Xavier's rule for the whole
    assert np.abs(kernel).max() > 0.9 * np.sqrt(6 / sum(kernel.shape))
    np.testing.assert_allclose(
        run(params, features, available).features, concatenated @ kernel + params["bias"], rtol=1e-4, atol=1e-5
    )


def test_a_token_attends_as_multi_head_attention_with_one_query_does() -> None:
    params, run, _ = programs("FusionTokenConfig")
    features, available = features_of(5), mask_of(5)
    kernels = {name: np.asarray(p["kernel"]) for name, p in params["attention"].items()}
    heads, width = CHANNELS // 8, 8
    query = (np.asarray(params["token"]) @ kernels["query"]).reshape(heads, width)
    keys, values = ((features @ kernels[n]).reshape(*SHAPE, heads, width) for n in ("key", "value"))
    scores = np.where(available[..., None], np.einsum("bmyxhd,hd->bmyxh", keys, query) / np.sqrt(width), -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(np.exp(scores - scores.max(1, keepdims=True)))
        weights = np.nan_to_num(weights / weights.sum(1, keepdims=True))
    expected = (
        np.einsum("bmyxh,bmyxhd->byxhd", weights, values).reshape(BATCH, HEIGHT, WIDTH, CHANNELS) @ kernels["out"]
    )
    out = run(params, features, available)
    np.testing.assert_allclose(out.features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.robustness, weights.mean(-1), rtol=1e-4, atol=1e-6)


def test_selection_takes_the_sensors_most_and_least_like_the_aggregate_and_aligns_all_but_the_first() -> None:
    params, run, _ = programs("RankedSelectionFusionConfig")
    features = features_of(6)
    features[:, 2] = -features[:, 0] + 0.3 * features[:, 2]
    out = run(params, features, np.ones(SHAPE, bool))
    aggregate = np.asarray(out.features)[:, None]
    cosine = (features * aggregate).sum(-1) / np.linalg.norm(features, axis=-1) / np.linalg.norm(aggregate, axis=-1)
    likeness = cosine.mean((2, 3))
    for sample in range(BATCH):
        best, worst = likeness[sample].argmax(), likeness[sample].argmin()
        np.testing.assert_allclose(
            out.second.features[sample], (features[sample, best] + features[sample, worst]) / 2, rtol=1e-5, atol=1e-6
        )
        rest = [m for m in range(3) if m != best]
        np.testing.assert_allclose(out.losses["alignment"][sample], (1 - likeness[sample, rest]).mean(), rtol=1e-4)


def seen_at_the_finest_scale(mask: Any) -> Availability:
    """What the finest scale sees as in `mask`."""
    return Availability(jnp.repeat(jnp.repeat(jnp.asarray(mask), STRIDES[0], 2), STRIDES[0], 3))


def losses_of(
    losses: ContrastAndReconstruction, params: Any, features: Any, fused: Any, recorded: Any, kept: Any
) -> Any:
    """The losses at one scale; without parameters, fresh ones."""
    fusions = [Fused(jnp.asarray(fused), equal_shares(jnp.asarray(kept)))]
    arguments = ([jnp.asarray(features)], fusions, *map(seen_at_the_finest_scale, (recorded, kept)))
    return (
        losses.init(jax.random.key(0), *arguments) if params is None else losses.apply({"params": params}, *arguments)
    )


def naive_losses(
    params: Any, features: np.ndarray, fused: np.ndarray, recorded: np.ndarray, kept: np.ndarray, temperature: float
) -> tuple[float, float]:
    """Of one sample, position by position."""
    places = [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    embedded = features @ np.asarray(params["embed"]["kernel"])
    embedded /= np.linalg.norm(embedded, axis=-1, keepdims=True)
    contrast, squares = [], []
    for i, j in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
        both = [p for p in places if recorded[i][p] and recorded[j][p]]
        for p in both:
            likeness = np.array([embedded[i][p] @ embedded[j][q] for q in both]) / temperature
            contrast.append(np.log(np.exp(likeness).sum()) - likeness[both.index(p)])
    for m, sensor in enumerate(SENSORS):
        for p in places:
            if recorded[m][p] and not kept[m][p] and kept[:, p[0], p[1]].any():
                target = (features[m][p] - features[m][p].mean()) / features[m][p].std()
                squares.append(
                    np.square(fused[p] @ np.asarray(params[f"reconstruct_{sensor}"]["kernel"]) - target).mean()
                )
    return float(np.mean(contrast)), float(np.mean(squares)) if squares else 0.0


def test_contrast_has_a_gradient_however_wrong_it_is_and_is_finite_where_nothing_is_there() -> None:
    losses = ContrastAndReconstruction(FusionTokenConfig(temperature=0.01), SENSORS)
    features, everywhere = features_of(9), np.ones(SHAPE, bool)
    params = losses_of(losses, None, features, features[:, 0], everywhere, everywhere)["params"]

    def contrast(features: Any, recorded: Any) -> Any:
        return losses_of(losses, params, features, features[:, 0], recorded, recorded)["contrast"].sum()

    value, gradient = jax.jit(jax.value_and_grad(contrast))(features, everywhere)
    assert value > -BATCH * np.log(1e-9)  # so far off that a softmax would round to nothing
    assert (np.abs(gradient).max((-1, -2, -3)) > 0).all()
    value, gradient = jax.jit(jax.value_and_grad(contrast))(features, ~everywhere)
    assert value == 0
    assert np.isfinite(gradient).all()


def test_contrast_and_reconstruction_are_each_samples_own_and_what_the_plain_form_says() -> None:
    config = FusionTokenConfig(temperature=0.5)
    losses = ContrastAndReconstruction(config, SENSORS)
    features, recorded = features_of(7), mask_of(7, 0.8)
    fused = features_of(8)[:, 0]
    kept = recorded & np.array([[True, False, True], [True, True, True]])[..., None, None]
    params = losses_of(losses, None, features, fused, recorded, kept)["params"]
    got = losses_of(losses, params, features, fused, recorded, kept)
    for i in range(BATCH):
        contrast, reconstruction = naive_losses(params, features[i], fused[i], recorded[i], kept[i], config.temperature)
        np.testing.assert_allclose(got["contrast"][i], contrast, rtol=1e-4)
        np.testing.assert_allclose(got["reconstruction"][i], reconstruction, rtol=1e-4)
    assert got["reconstruction"][0] > 0 == got["reconstruction"][1]  # the second sample lost nothing
