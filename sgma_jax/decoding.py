"""JSON to dataclasses by their type hints, strictly: a file that somebody edited must not quietly become something
else."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sgma_jax.errors import InputError


def decode(value: Any, hint: Any, where: str = "") -> Any:
    """Return what `json.loads` gave as an instance of `hint`.

    Takes dataclasses, tuples, dicts with names as keys, unions, literals, finite numbers, text, booleans and None.
    A field that is missing takes its default; one that the dataclass does not know is an error.
    A dataclass without a field of that name may state the name of its class in `kind`; as one of several of a union
    it must.
    Raises InputError that names the field by its dotted path from `where`.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kind = value.get("kind") if isinstance(value, dict) else None
        for option in args:
            if dataclasses.is_dataclass(option) and getattr(option, "__name__", None) == kind:
                return decode(value, option, where)
        options = [a for a in args if a is not type(None)]
        if len(options) == 1:
            return decode(value, options[0], where)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        own = any(f.name == "kind" for f in dataclasses.fields(hint))
        if isinstance(value, dict) and own:
            return _decode_fields(value, hint, where)
        if isinstance(value, dict) and value.get("kind", hint.__name__) == hint.__name__:
            return _decode_fields({name: item for name, item in value.items() if name != "kind"}, hint, where)
    elif origin is dict and isinstance(value, dict):
        return {name: decode(item, args[1], _join(where, name)) for name, item in value.items()}
    elif origin is tuple and isinstance(value, list):
        fixed = args[-1] is not Ellipsis
        if not fixed or len(value) == len(args):
            return tuple(decode(item, args[i] if fixed else args[0], f"{where}[{i}]") for i, item in enumerate(value))
    elif origin is Literal and value in args:
        return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif isinstance(hint, type) and origin is None and type(value) is hint:
        return value
    raise InputError(
        f"field '{where or 'whole file'}' is {json.dumps(value)[:40]}, which is not a "
        f"{getattr(hint, '__name__', hint)}."
    )


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: numpy's scalars and arrays become Python's, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def upgraded(
    fields: Mapping[str, Any], version: int, migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
) -> dict[str, Any]:
    """Return a file's fields as `version` has them, without the field "version" itself.

    A file that states no version is of version 1. `migrations[v]` turns the fields of version v into those of v + 1:
    what was renamed or moved; a new field with a default needs no version. Raises InputError for a newer version, and
    where the fields are not those of the version that is stated.
    """
    found = fields.get("version", 1)
    if type(found) is not int or found < 1:
        raise InputError(f"field 'version' is {json.dumps(found)[:40]}, which is no version.")
    if found > version:
        raise InputError(
            f"field 'version' is {found} and this program reads up to {version}: a newer version of sgma_jax wrote it. "
            "Update sgma_jax."
        )
    upgraded = {name: item for name, item in fields.items() if name != "version"}
    for step in range(found, version):
        try:
            upgraded = migrations[step](upgraded)
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(f"its fields are not those of version {step} ({error!r}).") from error
    return upgraded


def _decode_fields(fields: dict[str, Any], cls: type, where: str) -> Any:
    known, hints = dataclasses.fields(cls), typing.get_type_hints(cls)
    if unknown := sorted(set(fields) - {f.name for f in known}):
        raise InputError(
            f"field '{_join(where, unknown[0])}' is unknown; a newer version of sgma_jax may have written it."
        )
    needed = [f.name for f in known if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing := sorted(set(needed) - set(fields)):
        raise InputError(f"field '{_join(where, missing[0])}' is missing.")
    return cls(**{name: decode(item, hints[name], _join(where, name)) for name, item in fields.items()})


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
