"""All methods and ablations by name, each a change of the base preset, and the groups that are compared together."""

from __future__ import annotations

from collections.abc import Callable

from experiments.ablations import (
    baseline,
    heads,
    kernel_sizes,
    mas_only,
    modality_dropout,
    prototype_norm,
    sampling_table,
    semantic_filter,
    sgf_only,
    sgma,
)
from experiments.baselines import complete_mean, concatenation_zero, imlt_like, m3l_like, magic_like
from sgma_jax.config import TrainConfig
from sgma_jax.errors import InputError

REFERENCE = "sgma"
"""The method that all others are compared with, and whose speed turns minutes into steps."""

METHODS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "sgma": sgma.method,
    "complete_mean": complete_mean.method,
    "concatenation_zero": concatenation_zero.method,
    "m3l_like": m3l_like.method,
    "magic_like": magic_like.method,
    "imlt_like": imlt_like.method,
    "baseline": baseline.method,
    "sgf_only": sgf_only.method,
    "mas_only": mas_only.method,
    **modality_dropout.rows,
    "prototype_norm_none": prototype_norm.method,
    **heads.rows,
    "semantic_filter_separate": semantic_filter.method,
    **kernel_sizes.rows,
    **sampling_table.rows,
}

GROUPS: dict[str, tuple[str, ...]] = {
    "methods": ("sgma", "complete_mean", "concatenation_zero", "m3l_like", "magic_like", "imlt_like"),
    "paper": ("sgma", "baseline", "sgf_only", "mas_only"),
    # Were the paper's rows without MAS trained without modality dropout? Mean fusion and SGF, each with and without it.
    "dropout": ("sgma", "baseline", "complete_mean", "sgf_only", *modality_dropout.rows),
    "fusion": ("sgma", "prototype_norm_none", *heads.rows, "semantic_filter_separate", *kernel_sizes.rows),
    "sampling": ("sgma", *sampling_table.rows),
}


def chosen_methods(group: str, names: tuple[str, ...]) -> list[str]:
    """The methods named, or else those of the group; InputError for a name that there is not."""
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: there is no method {name!r}; there are {', '.join(METHODS)}.")
    return list(dict.fromkeys(names)) or list(GROUPS[group])
