"""Findings: all that is odd about a source, found before anything is written: by the doctor for a person, by the
converters to refuse or to record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rich.console import Console
from rich.table import Table

from sgma_jax.errors import InputError

SHOWN = 40
"""Findings of one kind that a table lists; the rest is a count."""


class Severity(Enum):
    """The meaning of a finding for a conversion."""

    ERROR = "error"
    """Cannot be converted until the source is mended."""
    REFUSED = "refused"
    """Would be silently wrong: refused, unless --accept names the check."""
    NOTE = "note"
    """Handled, and written down."""


@dataclass(frozen=True)
class Finding:
    """One thing about one place of the source."""

    severity: Severity
    check: str
    """Name of the check, words joined by hyphens; what --accept takes where the severity is REFUSED."""
    place: str
    """File relative to the source and, where it helps, row and column."""
    message: str
    """The fact, beside what was expected."""
    remedy: str
    """The way out; for a NOTE, what was done."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.check}] {self.remedy}"


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A table, worst first; no table where there is nothing to tell."""
    if not findings:
        return
    # Three columns, so that a table is readable in a terminal of 80 and in a log.
    table = Table(title="findings", title_justify="left", show_lines=True)
    table.add_column("severity", no_wrap=True)
    table.add_column("where and what", overflow="fold", ratio=3)
    table.add_column("remedy", overflow="fold", ratio=2)
    order = list(Severity)
    seen: dict[tuple[Severity, str], int] = {}
    for finding in sorted(findings, key=lambda f: (order.index(f.severity), f.check)):
        kind = (finding.severity, finding.check)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= SHOWN:
            table.add_row(
                finding.severity.value, f"{finding.place}: {finding.message} [{finding.check}]", finding.remedy
            )
    console.print(table, markup=False)
    for (_, check), count in seen.items():
        if count > SHOWN:
            console.print(f"... and {count - SHOWN} more of {check}", markup=False, highlight=False)


def settle(findings: Sequence[Finding], accepted: Sequence[str]) -> tuple[str, ...]:
    """The findings as lines of the manifest, where none stands in the way of a conversion.

    Otherwise all of them are listed on standard error, and InputError tells the worst one. A name in `accepted` that
    is no check which can be accepted here is an error too: it may be a misspelt one.
    """
    known = {f.check for f in findings if f.severity is Severity.REFUSED}
    blocking = [f for f in findings if f.severity is Severity.ERROR]
    refused = [f for f in findings if f.severity is Severity.REFUSED and f.check not in accepted]
    if worst := [*blocking, *refused]:
        print_findings(findings, Console(stderr=True))
        way_out = "" if blocking else f" Or take it as it is with --accept {worst[0].check}."
        more = f" ({len(worst) - 1} more above)" if len(worst) > 1 else ""
        raise InputError(f"{worst[0]}{way_out}{more}")
    if unknown := [name for name in accepted if name not in known]:
        found = f"what can be accepted is {', '.join(sorted(known))}" if known else "there is nothing to accept"
        raise InputError(f"--accept names {unknown[0]!r}, but {found}. Leave it out.")
    return tuple(f"accepted: {f}" if f.severity is Severity.REFUSED else str(f) for f in findings)
