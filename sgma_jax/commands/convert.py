"""`sgma convert` and `sgma doctor`: the converters of data_prep, under their own flags."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from sgma_jax.errors import InputError

SETS = {
    "geotiff": "SOURCE OUT: your own rasters, a folder with a GeoTIFF per sensor or a CSV",
    "potsdam": "SOURCE OUT: ISPRS Potsdam",
    "vaihingen": "SOURCE OUT: ISPRS Vaihingen",
    "dfc2023": "SOURCE OUT: DFC2023 track 2",
    "deliver": "SOURCE OUT: DELIVER",
    "synthetic": "OUT: a city that is generated on the spot",
}


def convert(arguments: Sequence[str]) -> None:
    """`sgma convert SET SOURCE OUT`: the same as `python -m data_prep.SET SOURCE OUT`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: sgma convert SET ...; `sgma convert SET --help` says more.\n")
        print("\n".join(f"  sgma convert {name} {what}" for name, what in SETS.items()))
        return
    if arguments[0] not in SETS:
        raise InputError(f"sgma convert has no set {arguments[0]!r}; it has {', '.join(SETS)}.")
    _run(f"data_prep.{arguments[0]}", f"sgma convert {arguments[0]}", arguments[1:])


def doctor(arguments: Sequence[str]) -> None:
    """`sgma doctor SOURCE`: what a public set's files are, and what is odd about them."""
    _run("data_prep.doctor", "sgma doctor", arguments)


def _run(module: str, command: str, arguments: Sequence[str]) -> None:
    """Call a converter's main function as `python -m` does. Its module is imported by name: the library knows of
    converters nothing but this.
    """
    sys.argv = [command, *arguments]
    importlib.import_module(module).main()
