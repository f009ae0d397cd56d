"""Subsets in the paper's order, availability at every scale, and the door that nothing absent passes."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from sgma_jax.availability import Availability, coarsen, refine
from sgma_jax.modalities import blank_unavailable, subsets


def test_every_call_is_checked_against_the_shapes_in_the_signature() -> None:
    with pytest.raises(TypeCheckError, match="batch coarse_height coarse_width"):
        refine(jnp.zeros((2, 3)), 4, 8, 12)
    with pytest.raises(TypeCheckError, match="height"):
        blank_unavailable(jnp.zeros((1, 4, 4, 3)), jnp.ones((1, 4, 5), bool))


def test_subsets_stand_in_the_order_of_the_papers_table() -> None:
    assert ["+".join(s) for s in subsets(("R", "D", "N"))] == ["R", "D", "N", "R+D", "R+N", "D+N", "R+D+N"]


@given(count=st.integers(1, 6))
def test_subsets_are_all_non_empty_ones_once_each(count: int) -> None:
    names = tuple("abcdef"[:count])
    got = subsets(names)
    assert len(got) == len(set(got)) == 2**count - 1
    for subset in got:
        assert subset
        assert tuple(n for n in names if n in subset) == subset
    assert [len(s) for s in got] == sorted(len(s) for s in got)


sizes = st.sampled_from([(8, 8), (7, 9), (3, 1)])  # few, because each compiles anew
strides = st.sampled_from([2, 4])
seeds = st.integers(0, 2**32 - 1)

coarsened = jax.jit(coarsen, static_argnums=1)
refined = jax.jit(refine, static_argnums=(1, 2, 3))


@given(size=sizes, stride=strides, seed=seeds, share=st.sampled_from([0.3, 0.5, 0.7]))
def test_a_coarse_position_is_available_where_at_least_half_of_the_pixels_it_has_are(
    size: tuple[int, int], stride: int, seed: int, share: float
) -> None:
    available = np.random.default_rng(seed).random((2, 3, *size)) < share
    got = np.asarray(coarsened(available, stride))
    height, width = (-(-s // stride) for s in size)
    assert got.shape == (2, 3, height, width)
    for b, m, y, x in product(range(2), range(3), range(height), range(width)):
        cell = available[b, m, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
        assert got[b, m, y, x] == (2 * cell.sum() >= cell.size)


@given(size=sizes, stride=strides, seed=seeds)
def test_refining_gives_every_pixel_its_cell_and_coarsening_undoes_it(
    size: tuple[int, int], stride: int, seed: int
) -> None:
    height, width = size
    coarse = np.random.default_rng(seed).random((2, -(-height // stride), -(-width // stride))) < 0.5
    fine = np.asarray(refined(coarse, stride, height, width))
    assert fine.shape == (2, height, width)
    for b, y, x in product(range(2), range(height), range(width)):
        assert fine[b, y, x] == coarse[b, y // stride, x // stride]
    np.testing.assert_array_equal(np.asarray(coarsened(fine[:, None], stride))[:, 0], coarse)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1.0])
def test_nothing_absent_passes_the_door_in_either_direction(value: float) -> None:
    rng = np.random.default_rng(0)
    image, available = rng.normal(size=(2, 4, 4, 3)).astype(np.float32), rng.random((2, 4, 4)) < 0.5
    poisoned = np.where(available[..., None], image, np.float32(value))

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(blank_unavailable(x, jnp.asarray(available))))

    np.testing.assert_array_equal(
        blank_unavailable(jnp.asarray(poisoned), jnp.asarray(available)), np.where(available[..., None], image, 0)
    )
    gradient = np.asarray(jax.grad(loss)(jnp.asarray(poisoned)))
    assert np.isfinite(gradient).all()
    assert (gradient[~available] == 0).all()
    assert (gradient[available] != 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_door_keeps_the_type(dtype: jnp.dtype) -> None:
    assert blank_unavailable(jnp.ones((1, 2, 2, 1), dtype), jnp.zeros((1, 2, 2), bool)).dtype == dtype


def test_a_mask_per_sample_means_all_of_its_pixels() -> None:
    per_sample = np.array([[True, False], [False, True]])
    got = np.asarray(Availability.of(jnp.asarray(per_sample), 3, 5).pixels)
    assert got.shape == (2, 2, 3, 5)
    np.testing.assert_array_equal(got, np.broadcast_to(per_sample[:, :, None, None], got.shape))
    by_pixel = np.random.default_rng(0).random((2, 2, 3, 5)) < 0.5
    np.testing.assert_array_equal(Availability.of(jnp.asarray(by_pixel), 3, 5).pixels, by_pixel)
