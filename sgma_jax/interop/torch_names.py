"""Which of PyTorch's arrays each of ours is, by the tables that the modules of the network bring."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp

from sgma_jax.config import EncoderConfig, ModelConfig
from sgma_jax.errors import InputError
from sgma_jax.models.parts import build_encoder, build_fusion
from sgma_jax.models.torch_table import Kind, Table


class Entry(NamedTuple):
    """One of our arrays, and where PyTorch has it."""

    path: str
    """Ours: "params/stage0_patch/proj/kernel"."""
    name: str
    """PyTorch's: "patch_embed1.proj.weight"."""
    kind: Kind | None
    """How the kernel lies; None for a vector, which is the same on both sides."""
    part: int
    """Which part of PyTorch's tensor it is, from 0 ..."""
    parts: int
    """... of how many, along the first axis."""


# What is around encoder and fusion, as experiments/torch_baseline names it.
AROUND: tuple[tuple[str, Kind, tuple[str, ...]], ...] = (
    ("stem_{m}", "point", ("stem.{m}",)),
    ("head/linear_{i}", "linear", ("head.linear.{i}",)),
    ("head/fuse", "point", ("head.fuse",)),
    ("head/norm", "norm", ("head.norm",)),
    ("head/classifier", "point", ("head.classifier",)),
)

NUMBER, PLACEHOLDERS = r"\d+", {"m": r"[A-Za-z]\w*"}
LEAVES = {
    "/kernel": ".weight",
    "/bias": ".bias",
    "_bias": ".bias",
    "/scale": ".weight",
    "/mean": ".running_mean",
    "/var": ".running_var",
}


def encoder_table(config: EncoderConfig) -> Table:
    """Return the table of an encoder."""
    return build_encoder(config, jnp.dtype("float32")).torch_names


def table_around_encoder(config: ModelConfig) -> Table:
    """Return the table of all but the encoder."""
    fusion = build_fusion(config.fusion, (), 2, jnp.dtype("float32")).at_one_scale()
    return Table(("reference",), (*AROUND, *fusion.torch_names.rows))


def encoder_layout(config: EncoderConfig, layout: str | None) -> str:
    """Return the layout that was asked for, or the encoder's first for None; InputError for one that it lacks."""
    layouts = encoder_table(config).layouts
    if layout is not None and layout not in layouts:
        raise InputError(f"{config.name} has no layout {layout!r}; it has {', '.join(layouts)}.")
    return layout or layouts[0]


def entries(paths: Iterable[str], table: Table, layout: str) -> list[Entry]:
    """Where PyTorch has each of our arrays; paths are "params/..." or "batch_stats/...". Raises KeyError for one
    that no row knows."""
    column = table.layouts.index(layout)
    rows = [(_pattern(ours, kind), kind, names[column]) for ours, kind, names in table.rows]
    return [_entry(path, rows) for path in paths]


def _pattern(ours: str, kind: Kind) -> re.Pattern[str]:
    """Return our module's template as a pattern of the paths of its arrays."""
    module = re.sub(r"\\{(\w)\\}", lambda m: f"(?P<{m[1]}>{PLACEHOLDERS.get(m[1], NUMBER)})", re.escape(ours))
    leaves = "" if kind == "vector" else "|".join(LEAVES)
    return re.compile(f"(?:params|batch_stats)/{module}(?P<leaf>{leaves})")


def _entry(path: str, rows: list[tuple[re.Pattern[str], Kind, str]]) -> Entry:
    for pattern, kind, template in rows:
        if match := pattern.fullmatch(path):
            found, leaf = match, match["leaf"]

            def number(m: re.Match[str], found: re.Match[str] = found) -> str:
                return str(int(found[m[1]]) + int(m[2])) if m[2] else found[m[1]]

            name = re.sub(r"\{(\w)([+-]1)?\}", number, template) + LEAVES.get(leaf, "")
            part = re.search(r"\[(\d)/(\d)\]", name)
            if part:
                name = name.replace(part[0], "")
            if kind == "in_proj":
                name = name.replace(".weight", "_weight")
            kernel = kind if leaf == "/kernel" else None
            return Entry(path, name, kernel, int(part[1]) - 1 if part else 0, int(part[2]) if part else 1)
    raise KeyError(f"no row of the table knows {path!r}")
