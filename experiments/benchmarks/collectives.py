"""Traffic of a compiled program between devices: every collective with its bytes, read from the compiler's own text
(HLO).

For programs compiled for simulated CPU devices, where no collective is split into a start and an end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<type>\(.*?\)|\S+) (?P<name>[\w\-]+)\((?P<rest>.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Groups are written out, or as [groups, devices in one], or as axes of a mesh whose sizes stand before them.
_GROUP = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\]|mesh\[([^\]]*)\] \{([^}]*)\})")
_PATH = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its results on a device, one for each array that it carries."""
    result_bytes: int
    """Bytes of the results on a device."""
    group: int
    """Devices that take part together."""
    times: int
    """How often a run of the program gets there: more than once inside a loop."""
    path: str
    """Where in the program it comes from, as JAX names it."""

    @property
    def whole_bytes(self) -> int:
        """Bytes of the arrays in question, whole: what is reduced, or what is there after a gather."""
        return self.result_bytes * (self.group if self.kind == "reduce-scatter" else 1)


def collectives(hlo: str) -> list[Collective]:
    """The collectives between two or more devices in a compiled program's text (`compiled.as_text()`).

    Raises ValueError for a loop of unknown length that has some.
    """
    bodies, entry = _computations(hlo)
    found: list[Collective] = []
    _visit(entry, 1, bodies, found)
    return found


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            lines = bodies.setdefault(head[1], [])
            entry = head[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    return bodies, entry


def _visit(name: str, times: int, bodies: dict[str, list[str]], found: list[Collective]) -> None:
    for line in bodies[name]:
        if not (instruction := _INSTRUCTION.match(line)):
            continue
        kind, rest = instruction["name"], instruction["rest"]
        if kind.removesuffix("-start") in KINDS:
            if kind not in KINDS:
                raise ValueError(f"{kind} is of an accelerator's program; compile it for simulated CPU devices.")
            found += _collective(kind, instruction["type"], rest, times)
        elif kind == "while":
            trips = _TRIPS.search(rest)
            called = _CALLED.findall(rest)
            if trips is None and any(_sends(c, bodies) for c in called):
                raise ValueError(f"a loop of unknown length sends something: {line.strip()[:200]}")
            for inner in called:
                _visit(inner, times * int(trips[1] if trips else 1), bodies, found)
        else:
            for inner in _CALLED.findall(rest):
                _visit(inner, times, bodies, found)


def _sends(name: str, bodies: dict[str, list[str]]) -> bool:
    found: list[Collective] = []
    _visit(name, 1, bodies, found)
    return bool(found)


def _collective(kind: str, result: str, rest: str, times: int) -> Iterator[Collective]:
    arrays = [(dtype, tuple(int(n) for n in sides.split(",") if n)) for dtype, sides in _ARRAY.findall(result)]
    group = 2  # a permutation is between pairs
    if groups := _GROUP.search(rest):
        listed, size_of_one, mesh, axes = groups.groups()
        if listed is not None:
            group = len(listed.split(","))
        elif size_of_one is not None:
            group = int(size_of_one)
        else:
            sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
            group = math.prod(sizes[name] for name in re.findall(r"'(\w+)'", axes))
    path = _PATH.search(rest)
    size = sum(BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)
    if group > 1:
        yield Collective(kind, tuple(shape for _, shape in arrays), size, group, times, path[1] if path else "")
