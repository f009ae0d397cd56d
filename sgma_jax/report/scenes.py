"""The pictures that the scene viewer switches between: what sensors see, and what every subset of them answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from sgma_jax.data.schema import IGNORE, Example, Schema
from sgma_jax.show.pictures import stretch_ends, stretched, visible_bands

PICTURE_BYTES = 8_000_000
"""[C] The most that all pictures of a page take, so that it can be sent by mail."""
SIDES = (384, 256, 160)
"""[C] Sides that scenes are drawn at, in pixels: the largest at which all fit into PICTURE_BYTES; at the last, as
many as fit."""
RIGHT, WRONG = (222, 230, 234), (213, 94, 0)
"""Colours of the error map: a pale grey, and Okabe and Ito's vermilion, which colour-blind readers can tell from it."""
ROBUSTNESS_STEPS = 64
"""Colours of a robustness map, from 0 to 1."""
TRANSPARENT = 255
"""Code of pixels where the page's hatching shows: no sensor, no label, no answer."""


@dataclass(frozen=True)
class SubsetPictures:
    """The answer of one subset of the sensors to a scene; pictures are data URIs."""

    prediction: str
    errors: str
    right: float | None
    """Share of the labelled pixels with an answer that are right."""
    robustness: dict[str, str]
    """Per sensor of the subset, its mean over the scales."""
    share: dict[str, float | None]
    """Per sensor of the subset, the mean of its robustness over the pixels that some sensor sees: how far the
    scene's answer rests on it."""


@dataclass(frozen=True)
class SceneView:
    """The pictures of a scene that are the same for whoever answers."""

    id: str
    inputs: dict[str, str]
    coverage: dict[str, float]
    """Share of the pixels that each sensor saw."""
    label: str


@dataclass(frozen=True)
class SceneAnswers:
    """One run's answers to a scene, by the names of the sensors joined with "+"."""

    scene: SceneView
    answers: dict[str, SubsetPictures]

    def bytes(self) -> int:
        """Size of all its pictures in the page."""
        return _text_length(asdict(self))


Answers = Mapping[
    tuple[str, ...], tuple[UInt8[np.ndarray, "height width"], Sequence[Float[np.ndarray, "modality _ _"]]]
]
"""Per subset of the sensors the classes, 255 where there is no answer, and the robustness maps, finest scale first."""


def draw_scenes(
    examples: Sequence[Example], schema: Schema, answers: Sequence[Sequence[Answers]]
) -> list[list[SceneAnswers]]:
    """Per run the pictures of its answers to these records, of which as many as fit into a page, and one at least.

    A run without answers has no pictures.
    """
    for side in SIDES:
        drawn = [
            [draw_scene(e, schema, a, side) for e, a in zip(examples, own, strict=True)] if own else []
            for own in answers
        ]
        sizes = np.cumsum([sum(own[i].bytes() for own in drawn if own) for i in range(len(examples))])
        if sizes[-1] <= PICTURE_BYTES:
            break
    fitting = max(1, int((sizes <= PICTURE_BYTES).sum()))
    return [own[:fitting] for own in drawn]


def draw_scene(
    example: Example,
    schema: Schema,
    answers: Answers,
    side: int,
) -> SceneAnswers:
    """Draw a record and the answers to it.

    Pictures are at most `side` pixels wide and high, thinned by taking every n-th pixel; the numbers beside them are
    of all pixels.
    """
    step = -(-max(example.label.shape) // side)
    inputs, coverage = {}, {}
    for name, mask in zip(schema.names, example.available, strict=True):
        image = example.images[name]
        shown = stretched(image, mask, *stretch_ends(visible_bands(image)[mask]))
        inputs[name] = _photo(shown[::step, ::step], mask[::step, ::step])
        coverage[name] = float(mask.mean())
    label = _map(example.label[::step, ::step], schema.palette)
    scene = SceneView(example.id, inputs, coverage, label)
    return SceneAnswers(
        scene,
        {
            "+".join(subset): _draw_answer(subset, *answer, example.label, schema, step)
            for subset, answer in answers.items()
        },
    )


def _draw_answer(
    subset: tuple[str, ...],
    classes: UInt8[np.ndarray, "height width"],
    robustness: Sequence[Float[np.ndarray, "modality _ _"]],
    label: UInt8[np.ndarray, "height width"],
    schema: Schema,
    step: int,
) -> SubsetPictures:
    judged = (label != IGNORE) & (classes != IGNORE)
    errors = np.where(judged, (classes != label).astype(np.uint8), TRANSPARENT).astype(np.uint8)
    maps = mean_over_scales(robustness) if robustness else np.zeros((0, 1, 1))
    seen = maps.sum(0) > 0
    thin = -(-max(maps.shape[1:]) * step // max(label.shape))
    return SubsetPictures(
        prediction=_map(classes[::step, ::step], schema.palette),
        errors=_map(errors[::step, ::step], (RIGHT, WRONG)),
        right=float((classes == label)[judged].mean()) if judged.any() else None,
        robustness={name: _robustness(values[::thin, ::thin]) for name, values in zip(subset, maps, strict=False)},
        share={
            name: float(values[seen].mean()) if seen.any() else None for name, values in zip(subset, maps, strict=False)
        },
    )


def mean_over_scales(
    robustness: Sequence[Float[np.ndarray, "modality _ _"]],
) -> Float[np.ndarray, "modality height width"]:
    """The mean of a scene's robustness maps at the size of the finest, so that it sums to 1 over the sensors
    wherever one is seen.

    A coarse position stands for all fine ones in it. Scales at which a fine position is seen by no sensor do not
    count there.
    """
    height, width = robustness[0].shape[1:]
    total, scales = np.zeros(robustness[0].shape), np.zeros((height, width))
    for maps in robustness:
        rows, columns = (np.arange(n) * m // n for n, m in ((height, maps.shape[1]), (width, maps.shape[2])))
        fine = maps[:, rows][:, :, columns].astype(np.float64)
        total += fine
        scales += fine.sum(0) > 0
    return total / np.maximum(scales, 1)


def _robustness(values: Float[np.ndarray, "height width"]) -> str:
    import matplotlib as mpl  # here, so that commands which draw nothing do not load it

    colours = (mpl.colormaps["viridis"](np.linspace(0, 1, ROBUSTNESS_STEPS))[:, :3] * 255).round().astype(int)
    codes = np.clip((values * ROBUSTNESS_STEPS).astype(np.uint8), 0, ROBUSTNESS_STEPS - 1)
    return _map(np.where(values > 0, codes, TRANSPARENT).astype(np.uint8), colours.tolist())


def _map(codes: UInt8[np.ndarray, "height width"], colours: Sequence[Sequence[int]]) -> str:
    """Codes as a palette PNG; codes without a colour are transparent."""
    there = np.minimum(codes, len(colours)).astype(np.uint8)  # a short palette makes PNG pack several pixels in a byte
    image = Image.fromarray(there)
    image.putpalette([value for colour in [*colours, (128, 128, 128)][:256] for value in colour])
    return _uri(image, "png", transparency=len(colours), optimize=True)


def _photo(image: Float[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]) -> str:
    pixels = np.dstack([np.where(mask[..., None], image, 0.0), mask])
    return _uri(Image.fromarray((pixels * 255).round().astype(np.uint8)), "webp", quality=85, method=6)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _text_length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_text_length(v) for v in value.values())
    return len(value) if isinstance(value, str) else 0
