"""`sgma data show`: look at a converted set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sgma_jax.errors import InputError
from sgma_jax.flags import parse


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """Look at a converted set: print counts, statistics and findings, and draw some of its records."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SET")]
    """Folder that a converter wrote."""
    split: str = "train"
    """Split whose records are drawn."""
    n: int = 6
    """Records to draw, evenly spread over the split."""
    out: Path | None = None
    """PNG file to write; NAME_SPLIT.png in the current folder if not given."""


def show(arguments: list[str]) -> None:
    """`sgma data show SET`: print counts and statistics, write a contact sheet."""
    own = parse(ShowArguments, arguments, "sgma data show")
    if own.n < 1:
        raise InputError(f"--n is {own.n}; draw at least 1 record.")
    from sgma_jax.data.schema import read_manifest
    from sgma_jax.data.source import open_source
    from sgma_jax.show.pictures import contact_sheet
    from sgma_jax.show.tables import print_dataset

    manifest = read_manifest(own.folder)
    source = open_source(own.folder, own.split)
    out = own.out or Path(f"{manifest.schema.name.replace('/', '_')}_{own.split}.png")
    if not out.parent.is_dir():
        raise InputError(f"--out: the folder {out.parent} does not exist. Create it, or choose another.")
    count = min(own.n, len(source))
    contact_sheet(out, [source[i * len(source) // count] for i in range(count)], source.schema)
    print_dataset(manifest, own.folder)
    print(f"{count} of {len(source)} records of {own.split}: {out}")
