"""Every non-empty subset of the sensors -> scores: exact, over a whole split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from sgma_jax.checkpointing import restore_newest_model
from sgma_jax.config import DataConfig, TrainConfig
from sgma_jax.data.pipeline import evaluation_batches, open_split, stack
from sgma_jax.data.source import Source
from sgma_jax.data.transforms import to_sample
from sgma_jax.distributed import compile_together, in_turn
from sgma_jax.metrics import confusion_matrix, evaluation_report
from sgma_jax.modalities import subsets
from sgma_jax.models.sgma import Sgma, initial_variables, make_model
from sgma_jax.reporting.atomic import write_atomically
from sgma_jax.reporting.pictures import sampling_picture, scene_picture
from sgma_jax.reporting.progress import Progress
from sgma_jax.reporting.provenance import provenance
from sgma_jax.sharding import check_batch_size, everywhere, make_mesh, put_batch, replicated, with_sharding
from sgma_jax.structs import IGNORE, Batch, Outputs

Missing = Literal["skip", "zero"]


def predict_subset(
    model: Sgma, variables: Any, batch: Batch, present: Int[Array, " present"] | Bool[Array, " modality"], missing: Missing
) -> Outputs:
    """The model's outputs when only some sensors are there.

    "skip": `present` holds the indices of those that are; the others are not computed. "zero", the other published protocol:
    `present` is a mask over all modalities; absent ones are zeros after normalisation and take part like any other.
    """
    if missing == "skip":
        skipped: Any = model.apply(variables, batch.images, batch.available, subset=present)
        return skipped
    there = batch.available & present[None, :, None, None]
    images = {m: jnp.where(there[:, i, ..., None], batch.images[m], 0.0) for i, m in enumerate(model.modalities)}
    outputs: Any = model.apply(variables, images, jnp.ones_like(batch.available))
    return outputs._replace(answered=there.any(1))


class Evaluator:
    """Scores a model on all subsets; holds the compiled programs, one per number of sensors ("skip") or one ("zero")."""

    def __init__(self, model: Sgma, classes: tuple[str, ...], mesh: Mesh, missing: Missing = "skip") -> None:
        self.model, self.classes, self.mesh, self.missing = model, classes, mesh, missing
        self.subsets = subsets(model.modalities)

        def predict(variables: Any, batch: Batch, present: Array) -> tuple[Array, tuple[Array, ...]]:
            outputs = predict_subset(model, variables, batch, present, missing)
            return jnp.where(outputs.answered, outputs.logits.argmax(-1), IGNORE), outputs.robustness

        def count(labels: Array, predictions: Array) -> tuple[Array, Array]:
            matrix = confusion_matrix(labels, predictions, predictions != IGNORE, len(classes))
            return matrix, (labels != IGNORE).sum()

        self.predict = jax.jit(predict)
        """Class of each pixel, 255 where no sensor saw it, and the robustness maps, of (variables, batch, present(subset)). As
        `present` is an argument, shapes alone decide what is compiled: one program per number of sensors."""
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._count = jax.jit(count, out_shardings=replicated(mesh))

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

    def confusions(
        self, variables: Any, batches: Iterable[Batch], progress: Callable[[int], None] = lambda done: None
    ) -> dict[tuple[str, ...], tuple[np.ndarray, int]]:
        """Per subset, the int64 confusion matrix of the split and the number of its labelled pixels."""
        variables = everywhere(variables, self.mesh)
        totals = {s: (np.zeros((len(self.classes),) * 2, np.int64), 0) for s in self.subsets}
        for done, batch in enumerate(batches):
            placed = put_batch(batch, self.mesh)
            counts = {}
            for subset in self.subsets:
                classes, _ = in_turn(self._program(variables, placed, subset)(variables, placed, self.present(subset)))
                counts[subset] = in_turn(self._count(placed.labels, classes))
            for subset, (matrix, labelled) in counts.items():
                total, pixels = totals[subset]
                totals[subset] = (total + np.asarray(matrix), pixels + int(labelled))
            progress(done + 1)
        return totals

    def report(self, confusions: dict[tuple[str, ...], tuple[np.ndarray, int]], split: str) -> dict[str, Any]:
        """The evaluation as RUN/evaluation/<split>.json has it, without provenance."""
        return evaluation_report(confusions, split, self.model.modalities, self.classes, self.missing)


def evaluate_run(folder: Path, config: TrainConfig, split: str, missing: Missing, pictures: int) -> dict[str, Any]:
    """Score a run's newest checkpoint on a split; writes RUN/evaluation/<split>.json (and pictures) and returns what it says.

    The file of the "zero" protocol is <split>_zero.json. Raises InputError for a folder that is no run or has no checkpoint.
    """
    source = open_split(config.data, split)
    mesh = make_mesh(1)
    check_batch_size("data.evaluation_batch_size", config.data.evaluation_batch_size, mesh)
    shapes = with_sharding(jax.eval_shape(lambda: initial_variables(config)), mesh)
    step, variables, trained_on = restore_newest_model(folder, shapes)

    model = make_model(config)
    evaluator = Evaluator(model, config.data.classes, mesh, missing)
    batches = evaluation_batches(config.data, source, process=jax.process_index(), processes=jax.process_count())
    with Progress(f"evaluating {split}", -(-len(source) // config.data.evaluation_batch_size)) as progress:
        confusions = evaluator.confusions(variables, batches, progress.update)
    report = evaluator.report(confusions, split)
    report["provenance"] = {**provenance(), "checkpoint_step": step, "manifest_hash": source.manifest_hash, "trained_on_manifest_hash": trained_on}
    name = split if missing == "skip" else f"{split}_{missing}"
    path = folder / "evaluation" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=2) + "\n").encode())
    if pictures:
        draw_pictures(folder / "pictures", evaluator, variables, source, config.data, pictures)
        sampling_picture(folder / "pictures" / "training.png", folder / "metrics.jsonl")
    return report


def draw_pictures(folder: Path, evaluator: Evaluator, variables: Any, source: Source, config: DataConfig, records: int) -> list[Path]:
    """Inputs, label, every subset's prediction and the robustness maps of the split's first records, as PNG files."""
    written = []
    for number in range(min(records, len(source))):
        example = source[number]
        sample = to_sample(example, source.schema, number, np.ones(len(source.schema.modalities), bool))
        batch = put_batch(stack([sample] * config.evaluation_batch_size), evaluator.mesh)  # the shape that is compiled already
        outputs = {s: evaluator.predict(variables, batch, evaluator.present(s)) for s in evaluator.subsets}
        written += scene_picture(
            folder / f"{source.split}_{number:03}.png",
            images=example.images,
            available=example.available,
            label=example.label,
            predictions={s: np.asarray(classes)[0].astype(np.uint8) for s, (classes, _) in outputs.items()},
            robustness=[np.asarray(r)[0] for r in outputs[evaluator.subsets[-1]][1]],
            classes=config.classes,
            palette=source.schema.palette,
        )
    return written
