"""How well classes part, against the plain definitions; and where positions may be taken from."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sgma_jax.availability import STRIDES
from sgma_jax.config import DataConfig, ModelConfig, PlainConfig, TrainConfig
from sgma_jax.evaluation.analysis import PER_RECORD, _pick, _programs, silhouette, unit_length, variance_within
from sgma_jax.models.network import initial_variables, make_model
from sgma_jax.structs import IGNORE, Batch


def plain_silhouette(vectors: np.ndarray, codes: np.ndarray) -> float:
    """Vector by vector (Rousseeuw 1987)."""
    scores = []
    for i, own in enumerate(codes):
        distances = {
            c: [np.linalg.norm(vectors[i] - vectors[j]) for j in np.flatnonzero(codes == c) if j != i]
            for c in set(codes)
        }
        if not distances[own]:
            scores.append(0.0)
            continue
        inside, outside = np.mean(distances[own]), min(np.mean(d) for c, d in distances.items() if c != own)
        scores.append((outside - inside) / max(inside, outside))
    return float(np.mean(scores))


def test_the_silhouette_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    codes = np.array([0] * 7 + [2] * 5 + [3])
    vectors = unit_length(rng.normal(size=(13, 6)) + 2 * np.eye(6)[codes])
    assert silhouette(vectors, codes) == pytest.approx(plain_silhouette(vectors, codes), abs=1e-9)
    apart = unit_length(np.eye(6)[codes] + 1e-3 * rng.normal(size=(13, 6)))
    assert silhouette(apart, codes) > 0.9
    assert silhouette(vectors, np.zeros(13, int)) is None


def test_the_variance_of_unit_vectors_is_what_their_mean_lacks() -> None:
    vectors = unit_length(np.random.default_rng(1).normal(size=(20, 4)))
    assert variance_within(vectors) == pytest.approx(1 - np.square(vectors.mean(0)).sum())
    assert variance_within(vectors[:1]) is None
    assert not unit_length(np.zeros((1, 4))).any()


@pytest.mark.parametrize("magnify", [1, 2, 8])
@pytest.mark.parametrize("stride", [4, 8])
def test_positions_are_pure_cells_that_every_sensor_sees(stride: int, magnify: int) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, size=(1, 2, 2)).repeat(20, 1).repeat(20, 2).astype(np.int32)  # patches of 20 x 20
    labels[0, :3] = IGNORE
    available = np.ones((1, 2, 40, 40), bool)
    available[0, 1, 30:] = False
    batch = Batch({}, available, None, labels, np.zeros(1, np.int32), None)
    places, codes = _pick(batch, ["record"], stride, magnify, 3)
    columns = 40 * magnify // stride
    assert (codes >= 0).any()
    assert all((codes == c).sum() <= PER_RECORD for c in range(3))
    for place, code in zip(places[codes >= 0], codes[codes >= 0], strict=True):
        rows, across = (
            (n * stride // magnify, max(-(-(n + 1) * stride // magnify), n * stride // magnify + 1))
            for n in divmod(int(place), columns)
        )
        window = np.s_[rows[0] : rows[1], across[0] : across[1]]
        assert (labels[0][window] == code).all()
        assert available[0][:, window[0], window[1]].all()
    np.testing.assert_array_equal(_pick(batch, ["record"], stride, magnify, 3).places, places)


def test_robustness_per_class_is_over_the_pixels_that_every_sensor_sees() -> None:
    config = TrainConfig(
        name="test",
        data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("a", "b", "c"), crop=32),
        model=ModelConfig(encoder=PlainConfig(), head_width=8),
        steps=1,
    )
    rng, size = np.random.default_rng(0), (2, 64, 64)
    images = {"rgb": rng.normal(size=(*size, 3)).astype(np.float32), "dsm": rng.normal(size=(*size, 1))}
    available = np.ones((2, 2, 64, 64), bool)
    available[0, 1, 20:], available[1, 0, :, :33] = False, False
    labels = rng.integers(0, 3, size).astype(np.int32)
    labels[:, :5] = IGNORE
    batch = Batch(images, available, None, labels, np.arange(2, dtype=np.int32), None)
    model, variables = make_model(config), jax.jit(lambda: initial_variables(config))()
    look, _ = _programs(model, 3)
    _, _, sums = look(variables, batch, [np.zeros((2, 1), np.int32)] * len(STRIDES))
    outputs = jax.jit(model.apply)(variables, images, available)
    for (shares, pixels), robustness, sees, stride in zip(sums, outputs.robustness, outputs.sees, STRIDES, strict=True):
        rows, columns = np.indices((64, 64)) // stride
        whole = np.asarray(sees).all(1)[:, rows, columns]
        for code in range(3):
            counted = whole & (labels == code)
            assert pixels[code] == counted.sum()
            for sensor in range(2):
                expected = np.asarray(robustness)[:, sensor][:, rows, columns][counted].sum(dtype=np.float64)
                assert float(shares[sensor, code]) == pytest.approx(expected, rel=1e-4)
    assert 0 < pixels.sum() < (labels != IGNORE).sum()
