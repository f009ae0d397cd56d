"""How a module says what PyTorch calls its parameters; `interop` reads the tables."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["conv", "linear", "point", "in_proj", "norm", "vector"]
"""How a module's kernel lies in PyTorch.

"conv" is OIHW for our HWIO, "linear" (out, in) for our (in, out), "point" a linear map that PyTorch has as a 1x1
convolution, "in_proj" a linear map inside `nn.MultiheadAttention`; "norm" has vectors alone, and "vector" is a
parameter by itself, which lies alike on both sides.
"""


class Table(NamedTuple):
    """A network's modules by our paths, with PyTorch's names for them.

    `{...}` stands for a number or a modality, and `{s+1}` for the stage counted from one.
    `[1/2]` after a name says that ours is the first of two equal parts into which the rows of PyTorch's tensor fall.
    Rows are looked up by our paths, so what a variant lacks asks for nothing.
    """

    layouts: tuple[str, ...]
    """Names of the layouts in which weights are published; the first is written unless another is asked for."""
    rows: tuple[tuple[str, Kind, tuple[str, ...]], ...]
    """Our module, how its kernel lies, and its name in each layout."""
    prefixes: tuple[str, ...] = ("",)
    """Texts that may stand before every name of a file."""


ATTENTION: tuple[tuple[str, Kind, str], ...] = (
    ("query", "in_proj", "in_proj[1/3]"),
    ("key", "in_proj", "in_proj[2/3]"),
    ("value", "in_proj", "in_proj[3/3]"),
    ("out", "linear", "out_proj"),
)
"""The projections of a multi-head attention in `nn.MultiheadAttention`."""


def attention(ours: str, name: str) -> tuple[tuple[str, Kind, tuple[str, ...]], ...]:
    """Return the rows of a multi-head attention."""
    return tuple((f"{ours}/{part}", kind, (f"{name}.{torch}",)) for part, kind, torch in ATTENTION)
