"""Scores of all sensors together while one of them fails in part: `sgma evaluate --corruptions`."""

from __future__ import annotations

import jax
import numpy as np

from sgma_jax.data.corruptions import corrupt, failures
from sgma_jax.data.pipeline import evaluation_batches, open_split
from sgma_jax.evaluation.evaluator import evaluator_of
from sgma_jax.evaluation.metrics import scores
from sgma_jax.runs.results import Corruptions, Evaluation, FailureScores, result_file, write_result
from sgma_jax.runs.run import Run
from sgma_jax.show.progress import Progress


def evaluate_failures(run: Run, evaluation: Evaluation) -> Corruptions:
    """Score a run under every failure of `data.corruptions`; writes RUN/evaluation/<split>_corruptions.json and
    returns what it says.

    `evaluation` is what `evaluate` returned for the same split and protocol; from it come the scores without any
    failure and with the sensor wholly missing.
    """
    split, config, variables = evaluation.split, run.config, run.restored.variables
    evaluator = evaluator_of(run, evaluation.missing)
    source = open_split(config.data, split)
    everything, protocol = config.data.modalities, failures(config.data.modalities)
    classes = len(config.data.classes)
    totals = {failure: np.zeros((classes, classes), np.int64) for failure in protocol}
    batches = evaluation_batches(config.data, source, process=jax.process_index(), processes=jax.process_count())
    with Progress(f"failing sensors, {split}", -(-len(source) // config.data.evaluation_batch_size)) as progress:
        for done, batch in enumerate(batches):  # each record is read once, and suffers everything
            record_ids = [source.record_id(int(number)) for number in batch.ids if number >= 0]
            for failure in protocol:
                totals[failure] += evaluator.confusion(
                    variables, corrupt(batch, record_ids, everything, failure), everything
                )
            progress.update(done + 1)
    miou = {row.modalities: row.miou for row in evaluation.subsets}
    found = Corruptions(
        split=split,
        modalities=evaluation.modalities,
        classes=evaluation.classes,
        missing=evaluation.missing,
        clean=miou[everything],
        missing_wholly={modality: miou.get(tuple(m for m in everything if m != modality)) for modality in everything},
        failures=tuple(
            FailureScores(**failure._asdict(), **vars(scores(matrix, config.data.classes)))
            for failure, matrix in totals.items()
        ),
        provenance=evaluation.provenance,
    )
    write_result(result_file(run.folder, split, "_corruptions.json", evaluation.missing), found)
    return found
