"""`sgma evaluate`: score a run on every subset of its sensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sgma_jax.commands.preparation import prepare_jax
from sgma_jax.errors import InputError
from sgma_jax.flags import parse


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Score a run on every non-empty subset of its sensors, from its newest checkpoint."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: str = "test"
    """Split to score."""
    missing: Literal["skip", "zero"] = "skip"
    """Absent sensors: skipped, or zeros after normalisation."""
    corruptions: bool = False
    """Score all sensors also while one of them fails in part: missing blocks, noise, misregistration."""
    analysis: bool = False
    """Measure how well classes part in each sensor's features, with and without fusion, and each sensor's robustness
    per class."""
    pictures: int = 0
    """Records of the split to draw, with the prediction of every subset and the robustness maps."""
    batch: int | None = None
    """Records at once, if not as many as the run's configuration says; fewer take less memory and change no score."""
    data_path: str | None = None
    """Where the data set lies now, if not where it was trained from."""


def evaluate(arguments: list[str]) -> None:
    """`sgma evaluate RUN`: writes RUN/evaluation/<split>.json and prints the table."""
    own = parse(EvaluateArguments, arguments, "sgma evaluate")
    prepare_jax()
    from sgma_jax.data.schema import MANIFEST
    from sgma_jax.evaluation.analysis import analyse
    from sgma_jax.evaluation.corruptions import evaluate_failures
    from sgma_jax.evaluation.evaluator import evaluate as score
    from sgma_jax.runs.folder import read_config
    from sgma_jax.runs.run import Run
    from sgma_jax.sharding import one_device_a_core
    from sgma_jax.show.tables import print_analysis, print_evaluation, print_failures

    config = read_config(own.run)
    if own.batch is not None:
        if own.batch < 1:
            raise InputError(f"--batch is {own.batch}; give at least 1.")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, evaluation_batch_size=own.batch))
    one_device_a_core(config.data.evaluation_batch_size)
    if own.data_path:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=own.data_path))
    if not (Path(config.data.path) / MANIFEST).is_file():
        raise InputError(
            f"{config.data.path}, where {own.run} was trained from, holds no converted data set. Say where it lies now "
            f"with --data-path."
        )
    run = Run(own.run, config)
    evaluation = score(run, split=own.split, pictures=own.pictures, missing=own.missing)
    print_evaluation(evaluation)
    if own.corruptions:
        print_failures(evaluate_failures(run, evaluation))
    if own.analysis:
        print_analysis(analyse(run, evaluation))
