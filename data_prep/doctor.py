"""Which public data set is this, what is missing, and what is wrong with it? `python -m data_prep.doctor SOURCE`.

Runs the checks of a conversion with default options, notes what other options would meet, and writes nothing:
archives are unpacked into a temporary folder that is removed. Exit status 0: it could be converted as it is. 1:
something stands in the way, and the table says what to do about it. 2: bad input, such as a source that is no set
known here.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from data_prep import deliver, dfc2023, potsdam, vaihingen
from data_prep.findings import Finding, Severity, print_findings
from data_prep.isprs import AreaOptions
from data_prep.sources import SourceTree, open_source
from data_prep.survey import PublicSet, default_options
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.flags import parse_process

SETS: tuple[PublicSet, ...] = (
    potsdam,
    vaihingen,
    dfc2023,
    deliver,
)

OTHER_CHOICES: Mapping[str, Mapping[str, Any]] = {
    potsdam.NAME: {
        "--dsm ownapproach": potsdam.Options(
            Path(), Path(), "ownapproach", AreaOptions(modalities=("dsm",), validation=potsdam.VALIDATION)
        ),
        "--dsm absolute": potsdam.Options(
            Path(), Path(), "absolute", AreaOptions(modalities=("dsm",), validation=potsdam.VALIDATION)
        ),
        "--eroded-evaluation": potsdam.Options(
            Path(),
            Path(),
            areas=AreaOptions(modalities=("dsm",), validation=potsdam.VALIDATION, eroded_evaluation=True),
        ),
    },
    vaihingen.NAME: {
        "--eroded-evaluation": vaihingen.Options(
            Path(), Path(), AreaOptions(modalities=("dsm",), validation=vaihingen.VALIDATION, eroded_evaluation=True)
        ),
    },
}
"""By set and by the flags that choose them: options that read files which the default ones do not. What is odd about
those files is a note."""


@dataclass(frozen=True)
class Options:
    """Look at a public data set as it lies on disk; nothing is written."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or archive with the files of one set."""


def recognise(tree: SourceTree) -> PublicSet:
    """The set that a source holds, by its files' names. InputError where that is none or several."""
    fitting = [s for s in SETS if s.recognise(tree)]
    names = ", ".join(s.NAME for s in fitting)
    if len(fitting) > 1:
        raise InputError(
            f"{tree.root} holds files of several sets: {names}. Give the folder or archive of one of them."
        )
    if not fitting:
        example = next(iter(tree.files))
        known = ", ".join(s.NAME for s in SETS)
        raise InputError(
            f"{tree.root} holds {len(tree.files)} files (the first is {example}), but none is named as in {known}. "
            "Give the folder above the set's own folders, or an archive as it was downloaded; for rasters of your own, "
            "use data_prep.geotiff."
        )
    return fitting[0]


def examine(source: Path) -> bool:
    """Print what SOURCE is and everything odd about it; whether a conversion with default options would go through."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="sgma-doctor-") as scratch, open_source(source, Path(scratch)) as tree:
        found = recognise(tree)
        survey = found.survey(tree, default_options(found, source))
        findings = [*survey.findings, *_other_findings(found, tree, survey.findings)]
        table = Table(title=f"{found.NAME}: {source}", title_justify="left", show_header=False)
        table.add_column("what", no_wrap=True)
        table.add_column("there", overflow="fold")
        for what, there in survey.inventory:
            table.add_row(what, there)
        console.print(table, markup=False, highlight=False)
        print_findings(findings, console)
    counts = Counter(f.severity for f in findings)
    blocked = counts[Severity.ERROR] + counts[Severity.REFUSED]
    told = ", ".join(f"{counts[s]} {s.value}" for s in Severity if counts[s]) or "nothing odd"
    command = f"python -m {found.__name__}"
    verdict = f"{command} would refuse it as it is" if blocked else f"{command} can convert it"
    console.print(f"{told}: {verdict}.", markup=False, highlight=False)
    return not blocked


def _other_findings(found: PublicSet, tree: SourceTree, known: Sequence[Finding]) -> list[Finding]:
    """Return what only conversions with other options would meet, as notes that name the option."""
    others: list[Finding] = []
    for flags, options in OTHER_CHOICES.get(found.NAME, {}).items():
        for finding in found.survey(tree, options).findings:
            if finding not in known:
                severity = "" if finding.severity is Severity.NOTE else f", {finding.severity.value}"
                others.append(
                    dataclasses.replace(
                        finding, severity=Severity.NOTE, remedy=f"With {flags}{severity}: {finding.remedy}"
                    )
                )
    return others


@one_line_errors
def main() -> None:
    """The command."""
    if not examine(parse_process(Options, "data_prep.doctor").source):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
