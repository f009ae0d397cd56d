"""Every non-empty subset of the sensors -> scores: exact, over a whole split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int

from sgma_jax.config import DataConfig
from sgma_jax.data.pipeline import evaluation_batches, open_split, stack
from sgma_jax.data.source import Source
from sgma_jax.data.transforms import padding_like, to_sample
from sgma_jax.distributed import await_turn, compile_together
from sgma_jax.evaluation.metrics import (
    CALIBRATION_BINS,
    LEVELS_PER_BIN,
    Tally,
    confidence_histogram,
    confusion_matrix,
    make_evaluation,
)
from sgma_jax.modalities import subsets
from sgma_jax.models.devices import sum_over_devices, sum_over_rows
from sgma_jax.models.network import Sgma, make_model
from sgma_jax.runs.names import METRICS_FILE, PICTURES
from sgma_jax.runs.provenance import provenance
from sgma_jax.runs.record_confusions import RecordConfusions, write_record_confusions
from sgma_jax.runs.results import Evaluation, Missing, result_file, write_result
from sgma_jax.runs.run import Run
from sgma_jax.sharding import batch_specs, check_batch_size, make_mesh, put_batch, put_replicated, replicated
from sgma_jax.show.pictures import AnsweredScene, sampling_picture, scene_picture
from sgma_jax.show.progress import Progress
from sgma_jax.structs import IGNORE, Batch, Outputs


def predict_subset(
    model: Sgma,
    variables: Any,
    batch: Batch,
    present: Int[Array, " present"] | Bool[Array, " modality"],
    missing: Missing,
) -> Outputs:
    """The model's outputs when only some sensors are there.

    "skip": `present` holds the indices of those that are; the others are not computed. "zero", the other published
    protocol: `present` is a mask over all modalities; absent ones are zeros after normalisation and take part like
    any other.
    """
    if missing == "skip":
        skipped: Any = model.apply(variables, batch.images, batch.available, subset=present)
        return skipped
    there = batch.available & present[None, :, None, None]
    images = {m: jnp.where(there[:, i, ..., None], batch.images[m], 0.0) for i, m in enumerate(model.modalities)}
    outputs: Any = model.apply(variables, images, jnp.ones_like(batch.available))
    return outputs._replace(answered=there.any(1))


class Answer(NamedTuple):
    """The answer of a subset of the sensors, pixel by pixel."""

    classes: Any
    """[batch, height, width] class codes; 255 where no sensor of the subset saw anything."""
    confidence: Any
    """[batch, height, width] float32: probability of that class; of no meaning where the class is 255."""
    robustness: tuple[Any, ...]
    """Per scale [batch, modality, height, width] float32, of the subset's sensors in their order; () with mean
    fusion."""


class Evaluator:
    """Scores a model on all subsets; holds the compiled programs, one per number of sensors ("skip") or one
    ("zero")."""

    def __init__(self, model: Sgma, classes: tuple[str, ...], mesh: Mesh, missing: Missing = "skip") -> None:
        self.model, self.classes, self.mesh, self.missing = model, classes, mesh, missing
        self.subsets = subsets(model.modalities)

        def predict(variables: Any, batch: Batch, present: Array) -> Answer:
            outputs = predict_subset(model, variables, batch, present, missing)
            confidence = jax.nn.softmax(outputs.logits).max(-1)
            return Answer(
                jnp.where(outputs.answered, outputs.logits.argmax(-1), IGNORE), confidence, outputs.robustness
            )

        def count(ids: Array, labels: Array, answered: Array, confidence: Array) -> tuple[Array, ...]:
            counted = answered != IGNORE
            matrices = jax.vmap(lambda label, answer, count: confusion_matrix(label, answer, count, len(classes)))(
                labels, answered, counted
            )
            labelled, confidences = (
                (labels != IGNORE).sum(),
                confidence_histogram(labels, answered, confidence, counted),
            )
            return ids, sum_over_rows(matrices), sum_over_devices(labelled), sum_over_devices(confidences)

        batch, whole = batch_specs(mesh), PartitionSpec()
        pixels: Any = Answer(classes=batch.labels, confidence=batch.labels, robustness=batch.available)
        self.predict = jax.jit(jax.shard_map(predict, mesh=mesh, in_specs=(whole, batch, whole), out_specs=pixels))
        """The Answer to (variables, batch, present(subset)). As `present` is an argument, shapes alone decide what
        is compiled: one program per number of sensors."""
        self._compiled: dict[tuple[int, ...], Any] = {}
        counts = jax.shard_map(
            count, mesh=mesh, in_specs=(batch.ids, *(batch.labels,) * 3), out_specs=(batch.ids, batch.ids, whole, whole)
        )
        self._count = jax.jit(counts, out_shardings=replicated(mesh))  # so that every process learns of every record

    def present(self, subset: tuple[str, ...]) -> np.ndarray:
        """A subset as the programs take it."""
        if self.missing == "skip":
            return np.array([self.model.modalities.index(m) for m in subset], np.int32)
        return np.array([m in subset for m in self.model.modalities])

    def _program(self, variables: Any, batch: Batch, subset: tuple[str, ...]) -> Any:
        """`predict`, which with several processes none may call before all have it."""
        if jax.process_count() == 1:
            return self.predict
        present = self.present(subset)
        if present.shape not in self._compiled:
            self._compiled[present.shape] = compile_together(self.predict, variables, batch, present)
        return self._compiled[present.shape]

    def _counts(self, variables: Any, batch: Batch, subset: tuple[str, ...]) -> Any:
        """Return, of a batch on the devices, ids and confusion matrices per record, labelled pixels, confidences."""
        answer = await_turn(self._program(variables, batch, subset)(variables, batch, self.present(subset)))
        return await_turn(self._count(batch.ids, batch.labels, answer.classes, answer.confidence))

    def tally(
        self,
        variables: Any,
        batches: Iterable[Batch],
        progress: Callable[[int], None] = lambda done: None,
        records: dict[int, dict[tuple[str, ...], np.ndarray]] | None = None,
    ) -> dict[tuple[str, ...], Tally]:
        """Return what is counted over the batches, per subset; each record's own confusion matrices go into `records`,
        by number and subset."""
        classes, levels = len(self.classes), CALIBRATION_BINS * LEVELS_PER_BIN
        nothing = Tally(np.zeros((classes, classes), np.int64), 0, np.zeros((levels, 2), np.int64))
        totals = dict.fromkeys(self.subsets, nothing)
        variables = put_replicated(variables, self.mesh)
        for done, batch in enumerate(batches):
            placed = put_batch(batch, self.mesh)
            counts = {s: self._counts(variables, placed, s) for s in self.subsets}
            for subset, (ids, confusions, labelled, confidences) in counts.items():
                matrices = np.asarray(confusions)
                totals[subset] = totals[subset].add(
                    matrices.sum(0, dtype=np.int64), int(labelled), np.asarray(confidences)
                )
                if records is not None:
                    for number, matrix in zip(np.asarray(ids), matrices, strict=True):
                        if number >= 0:  # else padding
                            records.setdefault(int(number), {})[subset] = matrix
            progress(done + 1)
        return totals

    def confusion(self, variables: Any, batch: Batch, subset: tuple[str, ...]) -> np.ndarray:
        """int64 confusion matrix of one batch and one subset."""
        _, confusions, _, _ = self._counts(variables, put_batch(batch, self.mesh), subset)
        return np.asarray(confusions).sum(0, dtype=np.int64)

    def evaluation(self, tallies: dict[tuple[str, ...], Tally], split: str) -> Evaluation:
        """Return what the counts come to, without provenance."""
        return make_evaluation(tallies, split, self.model.modalities, self.classes, self.missing)


def evaluator_of(run: Run, missing: Missing = "skip") -> Evaluator:
    """Return the programs of a run's network, the same for all who ask; compiled when they are first called."""

    def make() -> Evaluator:
        mesh, config = make_mesh(1), run.config
        check_batch_size("data.evaluation_batch_size", config.data.evaluation_batch_size, mesh)
        return Evaluator(make_model(config), config.data.classes, mesh, missing)

    return run.program(("evaluator", missing), make)


def evaluate(
    run: Run | Path | str, *, split: str = "validation", pictures: int = 0, missing: Missing = "skip"
) -> Evaluation:
    """Score a run's newest checkpoint on a split; writes RUN/evaluation/<split>.json and returns what it says.

    `missing` says what absent sensors are; `pictures` is the number of records that are drawn. Beside the file lies
    <split>_records.npz, with each record's confusion matrices. The files of the "zero" protocol are <split>_zero.json
    and so on. Raises InputError for a folder that is no run or has no checkpoint.
    """
    run = Run.of(run)
    folder, config = run.folder, run.config
    source = open_split(config.data, split)
    step, variables, trained_on = run.restored
    evaluator = evaluator_of(run, missing)
    batches = evaluation_batches(config.data, source, process=jax.process_index(), processes=jax.process_count())
    with Progress(f"evaluating {split}", -(-len(source) // config.data.evaluation_batch_size)) as progress:
        records: dict[int, dict[tuple[str, ...], np.ndarray]] = {}
        tallies = evaluator.tally(variables, batches, progress.update, records)
    origin = {
        **provenance(),
        "checkpoint_step": step,
        "manifest_hash": source.manifest_hash,
        "trained_on_manifest_hash": trained_on,
    }
    evaluation = dataclasses.replace(evaluator.evaluation(tallies, split), provenance=origin)
    ids = tuple(source.record_id(number) for number in sorted(records))
    confusions = np.stack([np.stack([records[number][s] for s in evaluator.subsets]) for number in sorted(records)])
    # The records first: whoever finds the scores finds these too.
    write_record_confusions(
        result_file(folder, split, "_records.npz", missing),
        RecordConfusions(ids, tuple(evaluator.subsets), confusions),
    )
    write_result(result_file(folder, split, missing=missing), evaluation)
    if pictures:
        draw_pictures(folder / PICTURES, evaluator, variables, source, config.data, pictures)
        sampling_picture(folder / PICTURES / "training.png", folder / METRICS_FILE)
    return evaluation


def answer_records(
    evaluator: Evaluator, variables: Any, source: Source, config: DataConfig, records: Sequence[int]
) -> Iterator[dict[tuple[str, ...], Answer]]:
    """For each record in turn, every subset's Answer as numpy arrays without the batch axis; classes are uint8.

    Batches are of the size that evaluation compiles.
    """
    everything, size = np.ones(len(source.schema.modalities), bool), config.evaluation_batch_size
    for start in range(0, len(records), size):
        samples = [to_sample(source[n], source.schema, n, everything) for n in records[start : start + size]]
        batch = put_batch(stack(samples + [padding_like(samples[0], -1)] * (size - len(samples))), evaluator.mesh)
        answers = {
            s: jax.device_get(evaluator.predict(variables, batch, evaluator.present(s))) for s in evaluator.subsets
        }
        for i in range(len(samples)):
            yield {
                s: Answer(a.classes[i].astype(np.uint8), a.confidence[i], tuple(r[i] for r in a.robustness))
                for s, a in answers.items()
            }


def draw_pictures(
    folder: Path, evaluator: Evaluator, variables: Any, source: Source, config: DataConfig, records: int
) -> list[Path]:
    """Inputs, label, every subset's prediction and the robustness maps of the split's first records, as PNG files."""
    written = []
    numbers = range(min(records, len(source)))
    for number, answers in zip(numbers, answer_records(evaluator, variables, source, config, numbers), strict=True):
        example = source[number]
        scene = AnsweredScene(
            images=example.images,
            available=example.available,
            label=example.label,
            predictions={s: answer.classes for s, answer in answers.items()},
            robustness=answers[evaluator.subsets[-1]].robustness,
            classes=config.classes,
            palette=source.schema.palette,
        )
        written += scene_picture(folder / f"{source.split}_{number:03}.png", scene)
    return written
