"""The layers that Flax lacks, each against a plain oracle."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from sgma_jax.modalities import by_modality, softmax_over_modalities
from sgma_jax.models import cpu, layers
from sgma_jax.models.layers import (
    MaskedBatchNorm,
    depthwise,
    drop_path_factors,
    gelu,
    masked_softmax,
    resize,
    strided_convolution,
)
from sgma_jax.sharding import make_mesh


def grouped_convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


@pytest.mark.parametrize("size", [3, 11])
@pytest.mark.parametrize("group", [None, 3])
def test_depthwise_and_its_gradients_are_those_of_a_grouped_convolution(size: int, group: int | None) -> None:
    rng = np.random.default_rng(size)
    lead = () if group is None else (group,)
    x, kernel = (
        jnp.asarray(rng.normal(size=(2, *lead, 7, 5, 4)), jnp.float32),
        jnp.asarray(rng.normal(size=(*lead, size, size, 4)), jnp.float32),
    )

    def oracle(x, kernel):
        return grouped_convolution(x, kernel) if group is None else jax.vmap(grouped_convolution, (1, 0), 1)(x, kernel)

    np.testing.assert_allclose(depthwise(x, kernel), oracle(x, kernel), rtol=1e-5, atol=1e-4)
    gradients = [jax.grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1))(x, kernel) for f in (depthwise, oracle)]
    for got, want in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("group", [None, 3])
def test_a_cpus_form_of_a_depthwise_convolution_is_the_accelerators(group: int | None, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    lead = () if group is None else (group,)
    x = jnp.asarray(rng.normal(size=(2, *lead, 6, 6, 4)), dtype)
    kernel = jnp.asarray(rng.normal(size=(*lead, 11, 11, 4)), dtype)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == np.float32 else {"rtol": 0.1, "atol": 0.5}
    for margins in ((5, 5), (0, 5), (7, 3)):
        mine = cpu.depthwise(x, kernel, margins=margins)
        theirs, push = jax.vjp(lambda x, k, m=margins: layers._grouped(x, k, margins=m), x, kernel)
        np.testing.assert_allclose(np.float32(mine), np.float32(theirs), **close)
        want_x, want_kernel = push(jnp.ones_like(theirs))
        got_x = cpu.depthwise_by_input(jnp.ones_like(theirs), kernel, shape=x.shape, margins=margins)
        got_kernel = cpu.depthwise_by_kernel(x, jnp.ones_like(theirs), shape=kernel.shape, margins=margins)
        np.testing.assert_allclose(np.float32(got_x), np.float32(want_x), **close)
        np.testing.assert_allclose(np.float32(got_kernel), np.float32(want_kernel), **close)


def both_convolutions(x: jax.Array, wide: jax.Array, strided: jax.Array) -> jax.Array:
    return jnp.sin(strided_convolution(jnp.sin(depthwise(x, wide)), strided, 2, 1)).sum()


CONVOLVED = tuple(
    jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32)
    for i, shape in enumerate(((2, 8, 8, 4), (5, 5, 4), (3, 3, 4, 6)))
)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 6), ("tpu", 6)])
def test_a_program_holds_the_forms_of_the_platform_that_it_is_lowered_for(platform: str, convolutions: int) -> None:
    """Two convolutions forward and, of each, two for the gradient; a CPU's program has none, on whatever host."""
    traced = jax.jit(jax.value_and_grad(both_convolutions, (0, 1, 2))).trace(*CONVOLVED)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def test_the_convolutions_have_every_kind_of_derivative() -> None:
    def plain(x: jax.Array, wide: jax.Array, strided: jax.Array) -> jax.Array:
        inner = layers._grouped(x, wide, margins=(2, 2))
        return jnp.sin(layers._strided(jnp.sin(inner), strided, stride=2, margins=(1, 1), padding=1)).sum()

    def derivatives(f: Any) -> list[Any]:
        forward = jax.jvp(f, CONVOLVED, CONVOLVED)[1]
        second = jax.grad(lambda *a: sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1, 2))(*a)), (0, 1, 2))(*CONVOLVED)
        mixed = jax.jvp(jax.grad(f, (0, 1, 2)), CONVOLVED, CONVOLVED)[1]
        each = jax.vmap(jax.grad(f, (0, 1, 2)), (0, None, None))(CONVOLVED[0][:, None], *CONVOLVED[1:])
        every = jax.vmap(jax.grad(f, 1))(*(jnp.stack([a, 2 * a]) for a in CONVOLVED))
        return jax.tree.leaves((forward, second, mixed, each, every))

    for got, want in zip(derivatives(both_convolutions), derivatives(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * float(np.abs(want).max()))


def softmax_by_modality(scores: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.stack(softmax_over_modalities(by_modality(scores), by_modality(mask)), 1)


@pytest.mark.parametrize("softmax", [lambda scores, mask: masked_softmax(scores, mask, 1), softmax_by_modality])
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_masked_softmax_is_softmax_over_the_mask_and_zero_elsewhere_with_finite_gradients(
    softmax: Any, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    scores, mask = (50 * rng.normal(size=(4, 6))).astype(np.float32), rng.random((4, 6)) < share
    got = np.asarray(softmax(jnp.asarray(scores), jnp.asarray(mask)))
    for row, seen, weights in zip(scores.astype(np.float64), mask, got, strict=True):
        want = np.exp(row[seen] - row[seen].max()) / np.exp(row[seen] - row[seen].max()).sum() if seen.any() else []
        np.testing.assert_allclose(weights[seen], want, rtol=1e-5, atol=1e-7)
        assert (weights[~seen] == 0).all()
    gradient = jax.grad(lambda s: jnp.sum(softmax(s, jnp.asarray(mask)) ** 2))(jnp.asarray(scores))
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()


def test_batch_norm_sees_only_the_masked_positions_and_keeps_torchs_running_statistics() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, size=(2, 4, 5, 3)), jnp.float32)
    mask = jnp.asarray(rng.random((2, 4, 5)) < 0.5)
    norm = MaskedBatchNorm()
    variables = norm.init(jax.random.key(0), x, mask, True)
    assert (np.asarray(variables["batch_stats"]["var"]) == 1).all(), (
        "initialising must not update the running statistics"
    )
    got, updates = norm.apply(variables, x, mask, True, mutable=["batch_stats"])
    seen = np.asarray(x)[mask].astype(np.float64)
    np.testing.assert_allclose(got, (x - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * seen.var(0, ddof=1), rtol=1e-5)
    elsewhere = jnp.where(mask[..., None], x, 1e6)
    again, updates2 = norm.apply(variables, elsewhere, mask, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(np.asarray(again)[mask], np.asarray(got)[mask])
    np.testing.assert_array_equal(updates2["batch_stats"]["mean"], updates["batch_stats"]["mean"])
    still = norm.apply({**variables, **updates}, x, mask, False)
    stats = {k: np.asarray(v) for k, v in updates["batch_stats"].items()}
    np.testing.assert_allclose(still, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "padding"),
    [(33, 47, 7, 4, 3), (17, 9, 3, 2, 1), (16, 19, 8, 8, 0), (5, 8, 3, 1, 1)],
)
def test_a_strided_convolution_and_its_gradients_are_the_compilers_own(
    height: int, width: int, size: int, stride: int, padding: int
) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(size, size, 3, 5)), jnp.float32),
    )

    def theirs(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, ((padding,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    expected, pull = jax.vjp(theirs, x, kernel)
    got, mine = jax.vjp(lambda x, kernel: strided_convolution(x, kernel, stride, padding), x, kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    direction = rng.normal(size=expected.shape).astype(np.float32)
    for gradient, other in zip(mine(direction), pull(direction), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-3)


def test_a_convolution_without_jit_is_compiled_once_and_runs_with_jit_disabled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x, kernel = jnp.ones((1, 9, 9, 3)), jnp.ones((3, 3, 3, 5))
    with jax.log_compiles():
        compiled = strided_convolution(x, kernel, 2, 1)
        assert "Compiling" in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(strided_convolution(x, kernel, 2, 1), compiled)
        assert "Compiling" not in caplog.text
    with jax.disable_jit():
        np.testing.assert_allclose(strided_convolution(x, kernel, 2, 1), compiled, rtol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="chunks are for CPUs")
@pytest.mark.parametrize("bytes_each", [1, 2**19, 2**30])
def test_chunks_change_neither_values_nor_gradients(bytes_each: int) -> None:
    """All at once, two at a time, one at a time, on a mesh of CPUs; and all at once where there is no mesh."""
    x, w = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32), np.ones((4, 2), np.float32)
    mesh, whole = make_mesh(1), PartitionSpec()
    rounds = []

    def f(part: tuple[jax.Array, None], w: jax.Array) -> jax.Array:
        rounds.append(part[0].shape[0])
        return jnp.tanh(part[0] @ w)

    def chunked(x: jax.Array, w: jax.Array) -> jax.Array:
        return cpu.in_chunks(lambda part: f(part, w), (x, None), bytes_each)

    expected, pull = jax.vjp(chunked, x, w)
    assert set(rounds) == {6}
    rounds.clear()
    got, mine = jax.vjp(jax.shard_map(chunked, mesh=mesh, in_specs=whole, out_specs=whole), x, w)
    assert set(rounds) == {{1: 6, 2**19: 2, 2**30: 1}[bytes_each]}
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    for gradient, other in zip(mine(expected), pull(expected), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-6)


def test_gelu_is_the_exact_one() -> None:
    x = jnp.linspace(-9, 9, 1001)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(
        jax.grad(lambda y: gelu(y).sum())(x), jax.grad(lambda y: jax.nn.gelu(y, approximate=False).sum())(x), atol=2e-6
    )


def test_stochastic_depth_drops_each_branch_of_each_sample_at_its_rate_and_keeps_the_mean() -> None:
    rates = jnp.array([0.0, 0.25, 0.5])
    factors = np.asarray(drop_path_factors(jax.random.key(0), rates, 4000))
    for rate, row in zip(np.asarray(rates), factors, strict=True):
        assert np.isclose(row, 1 / (1 - rate)).sum() + (row == 0).sum() == 4000
        assert abs((row == 0).mean() - rate) < 0.03
    assert abs(np.corrcoef(factors[1] == 0, factors[2] == 0)[0, 1]) < 0.05  # one branch says nothing of another


@pytest.mark.parametrize("positions", [0, 1])
def test_batch_norm_of_too_few_positions_falls_back_to_its_running_statistics(positions: int) -> None:
    x, mask = (
        jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 4)), jnp.float32),
        jnp.arange(6).reshape(1, 2, 3) < positions,
    )
    stats = {"mean": np.arange(4, dtype=np.float32), "var": np.arange(1, 5, dtype=np.float32)}
    variables = {"params": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}, "batch_stats": stats}
    got, updates = MaskedBatchNorm().apply(variables, x, mask, True, mutable=["batch_stats"])
    np.testing.assert_allclose(got, MaskedBatchNorm().apply(variables, x, mask, False), rtol=1e-6)
    for name, value in stats.items():
        np.testing.assert_allclose(updates["batch_stats"][name], value, rtol=1e-6)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """PyTorch's formula for align_corners=False, pixel by pixel."""
    out = np.zeros((height, width, image.shape[2]))
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            sx = min(max((x + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            fy, fx = sy - y0, sx - x0
            top, bottom = image[y0, x0] * (1 - fx) + image[y0, x1] * fx, image[y1, x0] * (1 - fx) + image[y1, x1] * fx
            out[y, x] = top * (1 - fy) + bottom * fy
    return out


@pytest.mark.parametrize("channels", [2, 6])  # fewer and more than columns, which go different ways
@pytest.mark.parametrize("size", [(8, 12), (7, 5), (3, 4)])
def test_resize_is_bilinear_with_half_pixel_centres_and_no_antialiasing(size: tuple[int, int], channels: int) -> None:
    image = np.random.default_rng(0).normal(size=(3, 4, channels)).astype(np.float32)
    np.testing.assert_allclose(resize(jnp.asarray(image)[None], *size)[0], bilinear(image, *size), rtol=1e-5, atol=1e-5)
