"""Mean fusion: the baseline row of the paper's ablation."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.availability import take_drawn
from sgma_jax.modalities import by_modality
from sgma_jax.models.fusions.attention import mix
from sgma_jax.models.fusions.fused import Drawn, Fused, Second, equal_shares
from sgma_jax.models.torch_table import Table


class MeanFusion(nn.Module):
    """The mean over the available modalities; each of them counts as equally robust."""

    torch_names: ClassVar[Table] = Table(("reference",), ())

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch modality height width channels"],
        available: Bool[Array, "batch modality height width"],
        subset: Int[Array, " modality"] | None = None,
        drawn: Drawn | None = None,
    ) -> Fused:
        """Fuse the modalities along axis 1; without parameters, `subset` changes nothing."""
        del subset
        shares = equal_shares(available)
        second = None
        if drawn is not None:
            alone = jnp.where(
                drawn.sees[..., None], take_drawn(features, drawn.modality), jnp.zeros((), features.dtype)
            )
            second = Second(alone, drawn.sees)
        return Fused(mix(by_modality(shares[..., None]), features), shares, second)
