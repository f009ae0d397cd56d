"""`sgma inspect`: the size and cost of a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.commands.preset import load_preset
from sgma_jax.config_check import check
from sgma_jax.flags import parse


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Count parameters and multiply-adds of a preset's network, from the compiled programs' own cost analysis."""

    preset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """The preset."""
    size: int = 512
    """Side of the image, in pixels."""
    json: bool = False
    """Print JSON instead of a table."""


def inspect(arguments: list[str]) -> None:
    """`sgma inspect PRESET`: prints JSON or a table."""
    own = parse(InspectArguments, arguments, "sgma inspect")
    config = load_preset(own.preset)
    check(config)
    prepare_jax()
    from sgma_jax.models.inspection import inspect_model
    from sgma_jax.show.tables import print_inspection

    costs = inspect_model(config, own.size)
    if own.json:
        print(json.dumps(costs, indent=2))
    else:
        print_inspection(costs)
