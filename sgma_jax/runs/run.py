"""A trained run, read from its folder: what evaluation, prediction, export and report share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import jax

from sgma_jax.config import TrainConfig
from sgma_jax.errors import InputError
from sgma_jax.models.network import initial_variables
from sgma_jax.runs.checkpoints import RestoredModel, restore_newest_model
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.schema_file import RunSchema, read_run_schema
from sgma_jax.sharding import make_mesh, with_sharding

T = TypeVar("T")


class Run:
    """A run's folder, from which everything is read when it is first needed, and once."""

    def __init__(self, folder: Path | str, config: TrainConfig | None = None) -> None:
        """Take the run's own configuration by default; another one may name another place of the data set.

        Raises InputError for a folder that is no run.
        """
        self.folder = Path(folder)
        self.config = config or read_config(self.folder)
        self._programs: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, run: Run | Path | str) -> Run:
        """Return a run as it is, and the run of a folder."""
        return run if isinstance(run, Run) else cls(run)

    @functools.cached_property
    def schema(self) -> RunSchema:
        """The sensors and classes that it was trained on, with the statistics that normalise them.

        Raises InputError where the file is not there, or is another run's.
        """
        found, data = read_run_schema(self.folder), self.config.data
        if found.schema.names != data.modalities or found.schema.classes != data.classes:
            raise InputError(
                f"{self.folder}: schema.json and config.json name different sensors or classes; restore the files that "
                f"belong together."
            )
        return found

    @functools.cached_property
    def restored(self) -> RestoredModel:
        """The model of the newest checkpoint, on every device; InputError where there is none."""
        shapes = jax.eval_shape(lambda: initial_variables(self.config))
        return restore_newest_model(self.folder, with_sharding(shapes, make_mesh(1)))

    def program(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` made when it was first asked for under this key, so that nothing is compiled twice."""
        if key not in self._programs:
            self._programs[key] = make()
        made: T = self._programs[key]
        return made
