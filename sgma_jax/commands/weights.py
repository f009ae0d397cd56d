"""`sgma weights import` and `sgma weights export`: weights from and for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.flags import parse


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Convert an encoder's PyTorch weights into the file that model.pretrained names."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The weights as they were downloaded: .safetensors, or with PyTorch installed .pth, .pt or .bin."""
    encoder: str
    """The encoder that they are of: pvt_v2_b0 to pvt_v2_b5, resnet18, resnet34, resnet50, resnet101, resnet152."""
    out: Path
    """File to write."""


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a run's model, from its newest checkpoint, as a PyTorch state dict in safetensors."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    out: Path
    """File to write."""
    layout: str | None = None
    """Whose names the encoder gets: authors, timm or transformers for PVT-v2, torchvision, timm or transformers for
    ResNet."""


def import_(arguments: list[str]) -> None:
    """`sgma weights import FILE --encoder NAME --out WEIGHTS`: write one file and say what is in it."""
    given = parse(ImportArguments, arguments, "sgma weights import")
    prepare_jax()
    from sgma_jax.interop.pretrained import import_weights

    imported = import_weights(given.file, given.encoder, given.out)
    numbers = f"{len(imported.arrays)} arrays of {sum(a.size for a in imported.arrays.values()):,} numbers"
    print(f"{given.out}: {given.encoder}, {numbers}, from the layout of {imported.layout}")
    print(f"left out: {', '.join(imported.left_out) or 'nothing'}")


def export(arguments: list[str]) -> None:
    """`sgma weights export RUN --out FILE`: write one file and say what is in it."""
    given = parse(ExportArguments, arguments, "sgma weights export")
    prepare_jax()
    from sgma_jax.interop.export import export_run

    exported = export_run(given.run, given.out, given.layout)
    numbers = f"{len(exported)} tensors of {sum(a.size for a in exported.values()):,} numbers"
    print(f"{given.out}: {numbers}, such as {next(iter(exported))}")
