"""PyTorch state dicts of random numbers, made without PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from sgma_jax.config import ModelConfig
from sgma_jax.interop.torch_weights import encoder_shapes, state_dict_of
from sgma_jax.kinds import ENCODERS


def random_encoder(name: str) -> dict[str, np.ndarray]:
    """An encoder's arrays by our path."""
    rng = np.random.default_rng(0)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in encoder_shapes(ENCODERS[name]).items()}


def encoder_state_dict(name: str, layout: str | None = None) -> dict[str, np.ndarray]:
    """`random_encoder` under PyTorch's names, as a file of the encoder alone has them."""
    inside = {path.replace("/", "/encoder/", 1): array for path, array in random_encoder(name).items()}
    variables = unflatten_dict(inside, sep="/")
    return {
        k.removeprefix("encoder."): v
        for k, v in state_dict_of(variables, ModelConfig(encoder=ENCODERS[name]), layout).items()
    }


@pytest.fixture(scope="session")
def arrays_of() -> Callable[[str], dict[str, np.ndarray]]:
    return random_encoder


@pytest.fixture(scope="session")
def state_dict() -> Callable[..., dict[str, np.ndarray]]:
    return encoder_state_dict
