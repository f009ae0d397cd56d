"""What PyTorch calls our parameters: one table a network, with a column for each layout in which its weights are
published.

A row names a module on both sides; `{...}` stands for a number or a sensor, and `{s+1}` for the stage counted from
one. `[1/2]` after a name says that ours is the first of two equal parts into which the rows of PyTorch's tensor
fall. Rows are looked up by our paths, so what a variant does not have (the spatial reduction of the last stage, say)
asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from sgma_jax.config import PvtV2Config, ResNetConfig
from sgma_jax.errors import InputError
from sgma_jax.models.encoders import pvt_v2, resnet

Kind = Literal["conv", "linear", "point", "in_proj", "norm"]
"""What a module is, which says how its kernel lies: "conv" OIHW for our HWIO, "linear" (out, in) for our (in, out),
"point" a linear map that PyTorch has as a 1x1 convolution, "in_proj" a linear map inside `nn.MultiheadAttention`,
"norm" vectors alone."""


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


class Table(NamedTuple):
    """A network's rows: our module, what it is, and its name in each layout."""

    layouts: tuple[str, ...]
    """Names of the columns; the first is the one that is written unless another is asked for."""
    rows: tuple[tuple[str, Kind, tuple[str, ...]], ...]
    prefixes: tuple[str, ...] = ("",)
    """What may stand before every name of a file."""


_PVT_V2_BLOCK: tuple[tuple[str, Kind, str, str, str], ...] = (
    ("norm1", "norm", "norm1", "norm1", "layer_norm_1"),
    ("attention/query", "linear", "attn.q", "attn.q", "attention.query"),
    ("attention/key", "linear", "attn.kv[1/2]", "attn.kv[1/2]", "attention.key"),
    ("attention/value", "linear", "attn.kv[2/2]", "attn.kv[2/2]", "attention.value"),
    ("attention/reduce", "conv", "attn.sr", "attn.sr", "attention.spatial_reduction"),
    ("attention/reduce_norm", "norm", "attn.norm", "attn.norm", "attention.layer_norm"),
    ("attention/out", "linear", "attn.proj", "attn.proj", "attention.proj"),
    ("norm2", "norm", "norm2", "norm2", "layer_norm_2"),
    ("mlp/expand", "linear", "mlp.fc1", "mlp.fc1", "mlp.dense1"),
    ("mlp/dwconv", "conv", "mlp.dwconv.dwconv", "mlp.dwconv", "mlp.dwconv.dwconv"),
    ("mlp/contract", "linear", "mlp.fc2", "mlp.fc2", "mlp.dense2"),
)
# Authors: github.com/whai362/PVT, classification/pvt_v2.py. timm: timm/models/pvt_v2.py.
PVT_V2 = Table(
    ("authors", "timm", "transformers"),
    (
        (
            "stage0_patch/proj",
            "conv",
            ("patch_embed1.proj", "patch_embed.proj", "encoder.layers.0.patch_embedding.proj"),
        ),
        (
            "stage0_patch/norm",
            "norm",
            ("patch_embed1.norm", "patch_embed.norm", "encoder.layers.0.patch_embedding.layer_norm"),
        ),
        (
            "stage{s}_patch/proj",
            "conv",
            ("patch_embed{s+1}.proj", "stages.{s}.downsample.proj", "encoder.layers.{s}.patch_embedding.proj"),
        ),
        (
            "stage{s}_patch/norm",
            "norm",
            ("patch_embed{s+1}.norm", "stages.{s}.downsample.norm", "encoder.layers.{s}.patch_embedding.layer_norm"),
        ),
        ("stage{s}_norm", "norm", ("norm{s+1}", "stages.{s}.norm", "encoder.layers.{s}.layer_norm")),
        *(
            (
                "stage{s}_block{b}/" + ours,
                kind,
                ("block{s+1}.{b}." + authors, "stages.{s}.blocks.{b}." + timm, "encoder.layers.{s}.blocks.{b}." + hf),
            )
            for ours, kind, authors, timm, hf in _PVT_V2_BLOCK
        ),
    ),
    ("", "pvt_v2."),
)

_RESNET: tuple[tuple[str, Kind, str, str], ...] = (
    ("conv1", "conv", "conv1", "embedder.embedder.convolution"),
    ("norm1", "norm", "bn1", "embedder.embedder.normalization"),
    (
        "stage{s}_block{b}/conv{n}",
        "conv",
        "layer{s+1}.{b}.conv{n}",
        "encoder.stages.{s}.layers.{b}.layer.{n-1}.convolution",
    ),
    (
        "stage{s}_block{b}/norm{n}",
        "norm",
        "layer{s+1}.{b}.bn{n}",
        "encoder.stages.{s}.layers.{b}.layer.{n-1}.normalization",
    ),
    (
        "stage{s}_block{b}/conv_shortcut",
        "conv",
        "layer{s+1}.{b}.downsample.0",
        "encoder.stages.{s}.layers.{b}.shortcut.convolution",
    ),
    (
        "stage{s}_block{b}/norm_shortcut",
        "norm",
        "layer{s+1}.{b}.downsample.1",
        "encoder.stages.{s}.layers.{b}.shortcut.normalization",
    ),
)
# torchvision/models/resnet.py; timm has the same names.
RESNET = Table(
    ("torchvision", "timm", "transformers"),
    tuple((ours, kind, (torchvision, torchvision, hf)) for ours, kind, torchvision, hf in _RESNET),
    ("", "resnet."),
)

_ATTENTION: tuple[tuple[str, Kind, str], ...] = (
    ("query", "in_proj", "in_proj[1/3]"),
    ("key", "in_proj", "in_proj[2/3]"),
    ("value", "in_proj", "in_proj[3/3]"),
    ("out", "linear", "out_proj"),
)
# What is around the encoder, as experiments/torch_baseline names it.
AROUND_ENCODER = Table(
    ("reference",),
    (
        ("stem_{m}", "point", ("stem.{m}",)),
        ("fusion_{i}/projector_{m}/dw{k}", "conv", ("fusion.{i}.projectors.{m}.dw{k}",)),
        ("fusion_{i}/projector_{m}/point", "point", ("fusion.{i}.projectors.{m}.point",)),
        ("fusion_{i}/semantic_filter", "point", ("fusion.{i}.semantic_filter",)),
        *(("fusion_{i}/spatial/" + ours, kind, ("fusion.{i}.spatial." + name,)) for ours, kind, name in _ATTENTION),
        *(
            ("fusion_{i}/robustness/" + ours, kind, ("fusion.{i}.robustness." + name,))
            for ours, kind, name in _ATTENTION
        ),
        ("head/linear_{i}", "linear", ("head.linear.{i}",)),
        ("head/fuse", "point", ("head.fuse",)),
        ("head/norm", "norm", ("head.norm",)),
        ("head/classifier", "point", ("head.classifier",)),
    ),
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

ENCODERS: dict[str, PvtV2Config | ResNetConfig] = {
    **{f"pvt_v2_{v}": PvtV2Config(variant=v) for v in pvt_v2.VARIANTS},  # type: ignore[arg-type]
    **{f"resnet{v}": ResNetConfig(variant=v) for v in resnet.VARIANTS},  # type: ignore[arg-type]
}
"""Every encoder by the name that the command line and weight files call it."""


def encoder_name(config: PvtV2Config | ResNetConfig) -> str:
    """An encoder's name, "pvt_v2_b2" or "resnet50"."""
    return f"pvt_v2_{config.variant}" if isinstance(config, PvtV2Config) else f"resnet{config.variant}"


def encoder_table(config: PvtV2Config | ResNetConfig) -> Table:
    """The table of an encoder's family."""
    return PVT_V2 if isinstance(config, PvtV2Config) else RESNET


def encoder_layout(config: PvtV2Config | ResNetConfig, layout: str | None) -> str:
    """The layout that was asked for, or the family's first for None. Raises InputError for one that the encoder does
    not have."""
    layouts = encoder_table(config).layouts
    if layout is not None and layout not in layouts:
        raise InputError(f"{encoder_name(config)} has no layout {layout!r}; it has {', '.join(layouts)}.")
    return layout or layouts[0]


def entries(paths: Iterable[str], table: Table, layout: str) -> list[Entry]:
    """Where PyTorch has each of our arrays; paths are "params/..." or "batch_stats/...". Raises KeyError for one
    that no row knows."""
    column = table.layouts.index(layout)
    rows = [(_pattern(ours), kind, names[column]) for ours, kind, names in table.rows]
    return [_entry(path, rows) for path in paths]


def _pattern(ours: str) -> re.Pattern[str]:
    """Our module's template as a pattern of the paths of its arrays."""
    module = re.sub(r"\\{(\w)\\}", lambda m: f"(?P<{m[1]}>{PLACEHOLDERS.get(m[1], NUMBER)})", re.escape(ours))
    return re.compile(f"(?:params|batch_stats)/{module}(?P<leaf>{'|'.join(LEAVES)})")


def _entry(path: str, rows: list[tuple[re.Pattern[str], Kind, str]]) -> Entry:
    for pattern, kind, template in rows:
        if match := pattern.fullmatch(path):
            name = (
                re.sub(
                    r"\{(\w)([+-]1)?\}", lambda m: str(int(match[m[1]]) + int(m[2])) if m[2] else match[m[1]], template
                )
                + LEAVES[match["leaf"]]
            )
            part = re.search(r"\[(\d)/(\d)\]", name)
            if part:
                name = name.replace(part[0], "")
            if kind == "in_proj":
                name = name.replace(".weight", "_weight")
            kernel = kind if match["leaf"] == "/kernel" else None
            return Entry(path, name, kernel, int(part[1]) - 1 if part else 0, int(part[2]) if part else 1)
    raise KeyError(f"no row of the table knows {path!r}")
