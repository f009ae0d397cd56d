"""The decorator by which shapes and types of annotated signatures are checked at every call (tests/conftest.py)."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int is taken where a float is annotated, as type checkers do."""
