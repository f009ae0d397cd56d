"""`sgma report`: one HTML page about runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.errors import InputError
from sgma_jax.flags import parse


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one self-contained HTML page about one or several runs that `sgma evaluate` has scored."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders of the runs; several stand side by side."""
    out: Path
    """File to write."""
    split: str = "test"
    """Split whose scores and scenes are shown."""
    scenes: int = 3
    """Records of the split to look at; 0 needs neither the data set nor a checkpoint."""
    data_path: str | None = None
    """Where the data set lies now, if not where the runs were trained from."""


def report(arguments: list[str]) -> None:
    """`sgma report RUN [RUN ...] --out FILE`: writes the page and says how large it is."""
    own = parse(ReportArguments, arguments, "sgma report")
    if not own.runs:
        raise InputError("sgma report needs a run: `sgma report RUN [RUN ...] --out report.html`.")
    prepare_jax()
    from sgma_jax.report.write import write_report

    written = write_report(own.runs, own.out, split=own.split, scenes=own.scenes, data_path=own.data_path)
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB, opens in any browser, from disk")
