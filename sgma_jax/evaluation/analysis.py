"""Figures that the paper shows beside scores: how well classes part in each sensor's features with and without fusion,
and who is robust where.

`sgma evaluate --analysis`. The paper gives the variance within a class and silhouette scores, but not which features
they are of. All [C]: a sensor's own features are what the encoder makes of it ("encoder") and what fusion makes of
it when it is the only sensor ("fused"), at every scale; vectors have unit length, so a variance lies between 0 and
1; positions are those whose cell holds one class only and that every sensor sees, a few per class and record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sgma_jax.availability import STRIDES, Availability
from sgma_jax.data.pipeline import evaluation_batches, open_split
from sgma_jax.errors import InputError
from sgma_jax.evaluation.evaluator import evaluator_of
from sgma_jax.models.fusions.fused import Fused
from sgma_jax.models.network import Sgma
from sgma_jax.runs.results import Analysis, Evaluation, Separability, result_file, write_result
from sgma_jax.runs.run import Run
from sgma_jax.sharding import put_batch
from sgma_jax.show.progress import Progress
from sgma_jax.structs import IGNORE, Batch

PER_RECORD = 8
"""[C] Positions per class, record and scale at most."""
PER_CLASS = 300
"""[C] Positions per class and scale at most: a silhouette compares all with all."""


def analyse(run: Run, evaluation: Evaluation) -> Analysis:
    """Analyse a run's newest checkpoint on a split; writes RUN/evaluation/<split>_analysis.json and returns what it
    says.

    `evaluation` is what `evaluate` returned for the split. Raises InputError where several processes would share the
    work, which it does not know.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"--analysis works in one process, and here are {jax.process_count()}; run it on one machine alone."
        )
    config, evaluator, variables = run.config, evaluator_of(run), run.restored.variables
    split, modalities, classes = evaluation.split, config.data.modalities, config.data.classes
    source = open_split(config.data, split)
    look, look_alone = _programs(evaluator.model, len(classes))
    chosen: dict[tuple[str, int, str], list[np.ndarray]] = {}
    codes: list[list[np.ndarray]] = [[] for _ in STRIDES]
    shares = [[np.zeros((len(modalities), len(classes))), np.zeros(len(classes))] for _ in STRIDES]

    with Progress(f"analysing {split}", -(-len(source) // config.data.evaluation_batch_size)) as progress:
        for done, batch in enumerate(evaluation_batches(config.data, source)):
            names = [source.record_id(int(number)) for number in batch.ids if number >= 0]
            picked = [_pick(batch, names, stride, config.model.magnify, len(classes)) for stride in STRIDES]
            places = [jnp.asarray(p.places) for p in picked]
            placed = put_batch(batch, evaluator.mesh)
            maps, of_encoder, sums = look(variables, placed, places)
            for i, total in enumerate(sums):
                shares[i] = [a + np.asarray(b) for a, b in zip(shares[i], total, strict=True)]
            for m, modality in enumerate(modalities):
                of_fusion = look_alone(variables, maps, placed, places, jnp.array([m]))
                for i, stride in enumerate(STRIDES):
                    for kind, vectors in (("encoder", of_encoder[i][:, m]), ("fused", of_fusion[i])):
                        chosen.setdefault((modality, stride, kind), []).append(
                            np.asarray(vectors)[picked[i].codes >= 0]
                        )
            for i, pick in enumerate(picked):
                codes[i].append(pick.codes[pick.codes >= 0])
            progress.update(done + 1)

    found = Analysis(
        split=split,
        modalities=evaluation.modalities,
        classes=evaluation.classes,
        separability=tuple(_separability(chosen, codes, classes)),
        robustness=_robustness(shares, modalities, classes) if config.model.fusion.weighs_modalities else None,
        provenance=evaluation.provenance,
    )
    write_result(result_file(run.folder, split, "_analysis.json"), found)
    return found


def _programs(model: Sgma, classes: int) -> tuple[Any, Any]:
    """Return two compiled programs: what all sensors' maps look like at the picked positions, with the robustness per
    class; and what fusion makes of one sensor alone."""

    def at(
        values: Float[Array, "batch *modality height width channels"], places: Int[Array, "batch position"]
    ) -> Array:
        flat = values.reshape(*values.shape[:-3], -1, values.shape[-1])
        index = places if flat.ndim == 3 else jnp.broadcast_to(places[:, None], (*flat.shape[:2], places.shape[1]))
        return jnp.take_along_axis(flat, index[..., None], axis=-2).astype(jnp.float32)

    def availability(batch: Batch) -> Availability:
        height, width = batch.labels.shape[1:]
        return Availability.of(batch.available, height, width, model.config.magnify)

    def look(variables: Any, batch: Batch, places: list[Array]) -> Any:
        available = availability(batch)

        def encode_and_fuse(model: Sgma) -> tuple[list[Array], list[Fused]]:
            maps = model.encode(model.stack(batch.images, available), available, False)
            return maps, model.fuse(maps, available)

        found: Any = model.apply(variables, method=encode_and_fuse)
        maps, fused = found
        one_hot = jax.nn.one_hot(jnp.where(batch.labels == IGNORE, -1, batch.labels), classes)
        sums = []
        for result, seen, stride in zip(fused, available.scales, STRIDES, strict=True):
            rows, columns = (jnp.arange(side) * model.config.magnify // stride for side in batch.labels.shape[1:])
            counted = one_hot * seen.all(1)[:, rows][:, :, columns][..., None]
            shares = jnp.einsum("bmyx,byxk->mk", result.robustness[:, :, rows][..., columns], counted)
            sums.append((shares, counted.sum((0, 1, 2))))
        return maps, [at(f, p) for f, p in zip(maps, places, strict=True)], sums

    def look_alone(variables: Any, maps: Any, batch: Batch, places: list[Array], modality: Array) -> list[Array]:
        one, available = [f[:, modality] for f in maps], availability(batch).select(modality)
        fused: Any = model.apply(variables, method=lambda model: model.fuse(one, available, modality))
        return [at(f.features, p) for f, p in zip(fused, places, strict=True)]

    return jax.jit(look), jax.jit(look_alone)


class Picked(NamedTuple):
    """Positions of a batch at one scale."""

    places: Int[np.ndarray, "batch position"]
    """Row by row, 0 where nothing was picked."""
    codes: Int[np.ndarray, "batch position"]
    """Class codes, -1 where nothing was picked."""


def _pick(batch: Batch, names: list[str], stride: int, magnify: int, classes: int) -> Picked:
    """Up to PER_RECORD positions of each class whose cell lies inside the image, holds one class only, and is seen
    by every sensor."""
    side = max(
        stride // magnify, 1
    )  # [C] pixels that a cell is; with a magnification beyond the stride several cells share a pixel
    per_side = max(magnify // stride, 1)
    height, width = (n // side for n in batch.labels.shape[1:])
    columns = -(-batch.labels.shape[2] * magnify // stride)
    places, codes = (np.full((len(batch.labels), classes * PER_RECORD), fill, np.int32) for fill in (0, -1))
    for row, name in enumerate(names):
        cells = batch.labels[row, : height * side, : width * side].reshape(height, side, width, side)
        seen = (
            batch.available[row].all(0)[: height * side, : width * side].reshape(height, side, width, side).all((1, 3))
        )
        low, high = cells.min((1, 3)), cells.max((1, 3))
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))
        for code in range(classes):
            found = np.argwhere((low == code) & (high == code) & seen)
            found = rng.permutation(found)[:PER_RECORD]
            at = slice(code * PER_RECORD, code * PER_RECORD + len(found))
            places[row, at] = found[:, 0] * per_side * columns + found[:, 1] * per_side
            codes[row, at] = code
    return Picked(places, codes)


def _separability(
    chosen: Mapping[tuple[str, int, str], list[np.ndarray]], codes: list[list[np.ndarray]], classes: tuple[str, ...]
) -> Iterator[Separability]:
    for (modality, stride, kind), parts in chosen.items():
        of = np.concatenate(codes[STRIDES.index(stride)])
        vectors = np.concatenate(parts)
        kept = np.concatenate(
            [np.flatnonzero(of == code)[_spread(int((of == code).sum()))] for code in range(len(classes))]
        )
        vectors, of = unit_length(vectors[kept]), of[kept]
        yield Separability(
            modality=modality,
            stride=stride,
            features=kind,
            positions=len(of),
            silhouette=silhouette(vectors, of),
            variance={name: variance_within(vectors[of == code]) for code, name in enumerate(classes)},
        )


def _spread(count: int) -> np.ndarray:
    """At most PER_CLASS of `count` indices, evenly spread."""
    return np.arange(min(count, PER_CLASS)) * count // max(min(count, PER_CLASS), 1)


def unit_length(vectors: Float[np.ndarray, "vector channels"]) -> Float[np.ndarray, "vector channels"]:
    """The vectors scaled to length 1, in float64; zeros stay."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def variance_within(vectors: Float[np.ndarray, "vector channels"]) -> float | None:
    """Mean squared distance to the mean; None for fewer than two vectors."""
    return float(np.square(vectors - vectors.mean(0)).sum(1).mean()) if len(vectors) > 1 else None


def silhouette(vectors: Float[np.ndarray, "vector channels"], codes: Int[np.ndarray, " vector"]) -> float | None:
    """Mean silhouette score of the classes as clusters (Rousseeuw 1987), Euclidean; None for fewer than two classes.

    A vector that is alone in its class scores 0.
    """
    present, index, counts = np.unique(codes, return_inverse=True, return_counts=True)
    if len(present) < 2:
        return None
    squares = np.square(vectors).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0.0))
    np.fill_diagonal(distances, 0.0)
    sums = np.stack([distances[:, index == c].sum(1) for c in range(len(present))], 1)
    own = np.arange(len(codes)), index
    inside = sums[own] / np.maximum(counts[index] - 1, 1)
    means = sums / counts
    means[own] = np.inf
    outside = means.min(1)
    largest = np.maximum(inside, outside)
    scores = np.where(
        (counts[index] > 1) & (largest > 0), (outside - inside) / np.where(largest > 0, largest, 1.0), 0.0
    )
    return float(scores.mean())


def _robustness(
    shares: list[list[np.ndarray]], modalities: tuple[str, ...], classes: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float] | None]]:
    return {
        str(stride): {
            name: {m: float(total[i, k] / pixels[k]) for i, m in enumerate(modalities)} if pixels[k] else None
            for k, name in enumerate(classes)
        }
        for stride, (total, pixels) in zip(STRIDES, shares, strict=True)
    }
