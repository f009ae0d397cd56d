"""The interface of a public set's module, so that the doctor and the converters look at a source in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_prep.findings import Finding
from data_prep.sources import SourceTree


class Survey(Protocol):
    """All that was found in a source; a set's own class may hold more."""

    @property
    def inventory(self) -> Sequence[tuple[str, str]]:
        """Rows for a person: what, and how much of it is there or missing."""

    @property
    def findings(self) -> Sequence[Finding]:
        """Everything odd, in the order in which it was found."""


class PublicSet(Protocol):
    """A module `data_prep.<set>`."""

    NAME: str
    """The set's name among people."""
    __name__: str

    @property
    def Options(self) -> Callable[..., Any]:
        """Dataclass of the converter's options; all but `source` and `out` have a default."""

    @property
    def recognise(self) -> Callable[[SourceTree], bool]:
        """Return whether the names in a source are those of this set."""

    @property
    def survey(self) -> Callable[[SourceTree, Any], Survey]:
        """Read whatever must be read to check every trap, by windows, and write nothing."""


def default_options(public_set: PublicSet, source: Path) -> Any:
    """The options of a conversion in which the user chose nothing."""
    return public_set.Options(source=source, out=Path())
