"""What every fusion promises, of each kind that `build_fusion` knows."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.compare.methods import METHODS
from experiments.demo import config as demo
from sgma_jax.config import FusionConfig
from tests.models.fusions import CONFIGS, SHAPE, features_of, mask_of, programs

every_fusion = pytest.mark.parametrize("name", CONFIGS)


@pytest.mark.parametrize(
    ("name", "whole"),
    # SGF's kernels read the neighbours of a pixel whether they are available or not; the network blanks absent pixels
    # before its encoder.
    [(n, w) for n, config in CONFIGS.items() for w in (True, False) if w or not hasattr(config, "kernel_sizes")],
)
def test_what_an_absent_sensor_holds_changes_nothing_and_gets_no_gradient(name: str, whole: bool) -> None:
    params, run, gradient = programs(name)
    available = mask_of(1)
    if whole:
        available[:] = np.array([[True, False, True], [False, True, False]])[..., None, None]
    features = features_of(0)
    other = np.where(available[..., None], features, 1e3 * features_of(1))
    for left, right in zip(
        jax.tree.leaves(run(params, features, available)), jax.tree.leaves(run(params, other, available)), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    of_params, of_features = gradient(params, features, available)
    assert not np.asarray(of_features)[~available].any()
    for left, right in zip(
        jax.tree.leaves(of_params), jax.tree.leaves(gradient(params, other, available)[0]), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@every_fusion
def test_skipping_a_sensor_is_masking_it(name: str) -> None:
    params, run, _ = programs(name)
    features, available = features_of(2), np.ones(SHAPE, bool)
    available[:, 1] = False
    masked = run(params, features, available)
    skipped = run(params, features[:, [0, 2]], available[:, [0, 2]], jnp.array([0, 2]))
    np.testing.assert_allclose(skipped.features, masked.features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(skipped.robustness, masked.robustness[:, [0, 2]], rtol=1e-5, atol=1e-6)


@every_fusion
def test_nothing_available_is_finite_with_finite_gradients(name: str) -> None:
    params, run, gradient = programs(name)
    nothing = np.zeros(SHAPE, bool)
    for leaf in jax.tree.leaves((run(params, features_of(3), nothing), gradient(params, features_of(3), nothing))):
        assert np.isfinite(leaf).all()


@every_fusion
def test_robustness_sums_to_one_over_what_is_available_and_is_zero_elsewhere(name: str) -> None:
    params, run, _ = programs(name)
    available = mask_of(7)
    robustness = np.asarray(run(params, features_of(7), available).robustness)
    np.testing.assert_allclose(robustness.sum(1), available.any(1), atol=1e-6)
    assert (robustness[~available] == 0).all()


@every_fusion
def test_every_parameter_has_a_gradient(name: str) -> None:
    params, _, gradient = programs(name)
    of_params, of_features = gradient(params, features_of(8), mask_of(8))
    # Where SGF begins its prototypes are nearly alike, and its filter's gradient is a millionth of the norm.
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves((of_params, of_features))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.linalg.norm(leaf) > 1e-7 * norm, jax.tree_util.keystr(path)


def test_every_fusion_is_a_method_of_the_comparison_which_is_trained_and_exported_elsewhere() -> None:
    assert {type(method(demo).model.fusion) for method in METHODS.values()} == set(get_args(FusionConfig))
