"""Semantic-Guided Fusion in the paper's own, naive form, written plainly: the oracle of the tests and the opponent
in the fusion benchmark.

Shares no code with sgma_jax.models: three separate depthwise convolutions, K queries at every pixel, attention head
by head, unavailable modalities left out of every list instead of being masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def grouped_convolution(x: Array, kernel: Array) -> Array:
    """XLA's own depthwise convolution of [height, width, channels] with [rows, columns, 1, channels]."""
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )[0]


def _attention(query: Array, tokens: Array, mask: Array, kernels: dict[str, Array], heads: int) -> tuple[Array, Array]:
    """Multi-head attention of queries [q, c] over tokens [m, c], of which only those with mask [m] take part: output
    [q, c], weights [h, q, m]."""
    width = query.shape[-1] // heads
    outputs, weights = [], []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = (
            query @ kernels["query"][:, part],
            tokens @ kernels["key"][:, part],
            tokens @ kernels["value"][:, part],
        )
        scores = jnp.where(mask[None], q @ k.T / jnp.sqrt(width), -1e30)
        w = jnp.where(mask[None], jax.nn.softmax(scores, axis=-1), 0.0)
        outputs.append(w @ v)
        weights.append(w)
    return jnp.concatenate(outputs, -1) @ kernels["out"], jnp.stack(weights)


@dataclass(frozen=True)
class NaiveFusion:
    """The fusion of one scale."""

    modalities: tuple[str, ...]
    heads: int
    norm: str = "softmax"
    convolve: Callable[[Array, Array], Array] = grouped_convolution
    """The depthwise convolution; the benchmark passes the fastest there is, so that it compares forms of the fusion
    alone."""

    def __call__(self, params: Any, features: Array, available: Array) -> tuple[Array, Array]:
        """Return fused features [b, h, w, c] and robustness [b, m, h, w] of features [b, m, h, w, c] under a mask
        [b, m, h, w]."""

        def sample(f: Array, seen: Array) -> tuple[Array, Array]:
            count, height, width, channels = f.shape
            semantic = jnp.stack(
                [
                    sum(
                        (self.convolve(f[i], params[f"projector_{m}"][f"dw{s}"]["kernel"]) for s in (11, 7, 3)),
                        start=jnp.zeros(()),
                    )
                    @ params[f"projector_{m}"]["point"]["kernel"]
                    for i, m in enumerate(self.modalities)
                ]
            )
            maps = (f @ params["semantic_filter"]["kernel"]).reshape(count * height * width, -1)
            everywhere = seen.reshape(-1)
            if self.norm == "softmax":
                weights = jax.nn.softmax(jnp.where(everywhere[:, None], maps, -1e30), axis=0)
            else:
                weights = maps
            weights = jnp.where(everywhere[:, None], weights, 0.0)
            prototypes = weights.T @ semantic.reshape(-1, channels)

            def pixel(tokens: Array, mask: Array, queries: Array) -> tuple[Array, Array]:
                spatial = {k: v["kernel"] for k, v in params["spatial"].items()}
                robust = {k: v["kernel"] for k, v in params["robustness"].items()}
                by_class, _ = _attention(queries, tokens, mask, spatial, self.heads)
                fused, attention = _attention(by_class.mean(0)[None], tokens, mask, robust, self.heads)
                return fused[0], attention.mean(0)[0]

            tokens = semantic.transpose(1, 2, 0, 3).reshape(-1, count, channels)
            everywhere_the_same = jnp.broadcast_to(prototypes, (len(tokens), *prototypes.shape))
            fused, robustness = jax.vmap(pixel)(tokens, seen.transpose(1, 2, 0).reshape(-1, count), everywhere_the_same)
            return fused.reshape(height, width, channels), robustness.T.reshape(count, height, width)

        return jax.vmap(sample)(features, available)
