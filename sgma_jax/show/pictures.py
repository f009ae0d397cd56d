"""Pictures as PNG files: a data set's contact sheet, a scene with its predictions and robustness maps, the course of
training.

matplotlib is imported inside the functions, so that training does not pay for it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from sgma_jax.data.schema import IGNORE, Example, Schema
from sgma_jax.files import write_atomically
from sgma_jax.runs.metrics_log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 2.3
"""Width of one image in a figure, in inches."""
DPI = 120
STRETCH = (2.0, 98.0)
"""Percentiles of a band's available pixels that become black and white."""
STRIPES = (0.22, 0.32)
"""The two dark greys of pixels that a sensor lacks."""
IGNORED = (0.88, 0.88, 0.88)
"""Grey of pixels without a label and of predictions without data."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of the sensors (Okabe and Ito's, which colour-blind readers can tell apart)."""


@dataclass(frozen=True, kw_only=True)
class AnsweredScene:
    """A scene with its label and a run's answers to it."""

    images: Mapping[str, Float[np.ndarray, "height width bands"]]
    """Raw values, in the order of the rows of `available`."""
    available: Bool[np.ndarray, "modality height width"]
    label: UInt8[np.ndarray, "height width"]
    predictions: Mapping[tuple[str, ...], UInt8[np.ndarray, "height width"]]
    """Class codes, by subset of the sensors."""
    robustness: Sequence[Float[np.ndarray, "modality _ _"]]
    """Per scale, the finest first; empty where the fusion has none."""
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    """One colour per class, 0 to 255."""


def scene_picture(path: Path | str, scene: AnsweredScene) -> list[Path]:
    """Write inputs, label and prediction per subset to `path`, and the robustness maps to NAME_robustness.png.

    Without robustness maps the second file is not written. Returns the files written.
    """
    path, label, available = Path(path), scene.label, scene.available
    shown = {
        name: stretched(image, mask, *stretch_ends(visible_bands(image)[mask]))
        for (name, image), mask in zip(scene.images.items(), available, strict=True)
    }
    colours = _colours(scene.palette)

    columns = max(len(shown) + 1, 3)
    rows = 1 + -(-len(scene.predictions) // columns)
    figure, axes = _grid(rows, columns, aspect=label.shape[0] / label.shape[1], extra_height=0.5)
    for axis, (name, image), mask in zip(axes[0], shown.items(), available, strict=False):
        _show(axis, image, f"{name}{_coverage(mask)}")
    _show(axes[0, len(shown)], colours[label], "label")
    valid = label != IGNORE
    for axis, (subset, prediction) in zip(axes[1:].flat, scene.predictions.items(), strict=False):
        accuracy = f"  {100 * (prediction[valid] == label[valid]).mean():.1f} % right" if valid.any() else ""
        _show(axis, colours[prediction], f"{'+'.join(subset)}{accuracy}")
    ignored = any((codes == IGNORE).any() for codes in (label, *scene.predictions.values()))
    _legend(figure, scene.classes, colours, ignored=ignored)
    _save(figure, path)
    if not scene.robustness:
        return [path]
    second = path.with_name(f"{path.stem}_robustness{path.suffix}")
    _save(_robustness_figure(shown, available, scene.robustness), second)
    return [path, second]


def contact_sheet(path: Path | str, examples: Sequence[Example], schema: Schema) -> None:
    """Write a sheet with a row per example: every sensor, striped where it is not available, and the label in the
    set's colours.

    A sensor has one stretch for the whole sheet, so that examples can be compared: a scene in other units shows at
    once.
    """
    colours = _colours(schema.palette)
    ends = []
    for name, row in zip(schema.names, range(len(schema.modalities)), strict=True):
        pixels = [visible_bands(e.images[name])[e.available[row]] for e in examples]
        ends.append(stretch_ends(np.concatenate(pixels)))
    figure, axes = _grid(len(examples), len(schema.modalities) + 1, aspect=1.0, extra_height=0.5, extra_width=0.3)
    for line, example in zip(axes, examples, strict=True):
        for axis, name, mask, (low, high) in zip(line, schema.names, example.available, ends, strict=False):
            _show(axis, stretched(example.images[name], mask, low, high), f"{name}{_coverage(mask)}")
        labelled = (example.label != IGNORE).mean()
        _show(line[-1], colours[example.label], "label" if labelled == 1 else f"label ({100 * labelled:.0f} % there)")
        line[0].set_ylabel(example.id, fontsize=7)
    _legend(figure, schema.classes, colours, ignored=any((e.label == IGNORE).any() for e in examples))
    _save(figure, Path(path))


def sampling_picture(path: Path | str, metrics: Path | str) -> Path:
    """Draw a run's metrics.jsonl: losses, the probability with which MAS draws each sensor, and validation mIoU.

    Validation shows each single sensor and the average over all subsets. Returns the file written.
    """
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    train = [line for line in lines if line.get("kind") == "train"]
    evaluations = [line for line in lines if line.get("kind") == "evaluation"]
    figure = Figure(figsize=(8, 8), dpi=DPI, layout="constrained")
    losses, draws, scores = figure.subplots(3, 1, sharex=True)

    for key, name, colour in (
        ("loss", "total", "#000000"),
        ("loss_fused", "fused branch", LINES[0]),
        ("loss_mas", "MAS branch", LINES[1]),
    ):
        _line(losses, train, lambda line, key=key: line.get(key), name, colour)
    names = list(dict.fromkeys(name for line in train for name in line.get("sampling") or {}))
    names += [
        n for n in dict.fromkeys(n for e in evaluations for n in e.get("miou") or {}) if "+" not in n and n not in names
    ]
    for name, colour in zip(names, LINES * (1 + len(names) // len(LINES)), strict=False):
        _line(draws, train, lambda line, name=name: (line.get("sampling") or {}).get(name), name, colour)
        _line(scores, evaluations, lambda line, name=name: (line.get("miou") or {}).get(name), name, colour, marker="o")
    _line(
        scores,
        evaluations,
        lambda line: line.get("average"),
        "average of all subsets",
        "#000000",
        marker="o",
        linestyle="--",
    )

    losses.set_ylabel("cross-entropy")
    losses.set_title("Training loss", loc="left")
    draws.set_ylabel("probability")
    draws.set_title("MAS: how often each sensor is drawn to train alone", loc="left")
    draws.set_ylim(bottom=0)
    scores.set_ylabel("mIoU")
    scores.set_title("Validation, each sensor alone", loc="left")
    scores.set_ylim(0, 1)
    scores.set_xlabel("step")
    for axis in (losses, draws, scores):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        else:
            axis.text(0.5, 0.5, "nothing recorded", transform=axis.transAxes, ha="center", color="0.5")
    _save(figure, Path(path))
    return Path(path)


def _robustness_figure(
    shown: Mapping[str, Float[np.ndarray, "height width 3"]],
    available: Bool[np.ndarray, "modality height width"],
    robustness: Sequence[Float[np.ndarray, "modality _ _"]],
) -> Figure:
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"].with_extremes(bad=str(STRIPES[0]))
    height, width = available.shape[1:]
    figure, axes = _grid(1 + len(robustness), len(shown), aspect=height / width, extra_height=0.0, extra_width=1.2)
    for axis, (name, image), mask in zip(axes[0], shown.items(), available, strict=True):
        _show(axis, image, f"{name}{_coverage(mask)}")
    for row, maps in zip(axes[1:], robustness, strict=True):
        for axis, values in zip(row, maps, strict=True):
            present = np.isfinite(values) & (values > 0)  # a sensor that is absent has robustness exactly 0
            mean = f"mean {values[present].mean():.2f}" if present.any() else "absent"
            _show(
                axis,
                np.ma.masked_where(~present, values),
                mean,
                cmap=colours,
                vmin=0,
                vmax=1,
                extent=(0, width, height, 0),
            )
        row[0].set_ylabel(f"{maps.shape[1]} x {maps.shape[2]} positions", fontsize=9)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), colours)
    figure.colorbar(
        scale, ax=list(axes[1:].flat), label="robustness (sums to 1 over the sensors)", shrink=0.6, aspect=30
    )
    return figure


def _grid(
    rows: int, columns: int, *, aspect: float, extra_height: float, extra_width: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """A figure of axes [rows, columns], invisible until something is shown in them, with the images' height / width."""
    from matplotlib.figure import Figure

    size = (columns * PANEL + extra_width, rows * (PANEL * aspect + 0.3) + extra_height)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], visible=False)
        axis.spines[:].set(color="0.6", linewidth=0.5)
    return figure, axes


def _show(axis: Axes, image: np.ndarray, title: str, **options: Any) -> None:
    axis.set_visible(True)
    axis.imshow(image, interpolation="nearest", **options)
    axis.set_title(title, fontsize=9)


def _colours(palette: Sequence[Sequence[int]]) -> Float[np.ndarray, "256 3"]:
    """The colour of each label code, 0 to 1; grey where it is no class."""
    colours = np.full((256, 3), IGNORED)
    colours[: len(palette)] = np.asarray(palette, float) / 255
    return colours


def visible_bands(image: Float[np.ndarray, "height width bands"]) -> Float[np.ndarray, "height width visible"]:
    """The bands that a picture can show: the first three, or the first."""
    return np.asarray(image[..., : 3 if image.shape[-1] >= 3 else 1], float)


def stretch_ends(pixels: Float[np.ndarray, "pixels visible"]) -> tuple[np.ndarray, np.ndarray]:
    """Values that become black and white, per band."""
    finite = pixels[np.isfinite(pixels).all(axis=-1)]
    low, high = np.percentile(finite, STRETCH, axis=0) if len(finite) else np.zeros((2, pixels.shape[-1]))
    return low, high


def stretched(
    image: Float[np.ndarray, "height width bands"],
    mask: Bool[np.ndarray, "height width"],
    low: np.ndarray,
    high: np.ndarray,
) -> Float[np.ndarray, "height width 3"]:
    """The first three bands, or the first one as grey, between `low` and `high`; striped dark grey where not
    available."""
    bands = visible_bands(image)
    valid = mask & np.isfinite(bands).all(axis=-1)
    rows, columns = np.indices(mask.shape)
    period = max(2, max(mask.shape) // 24)
    shown = np.repeat(np.where((rows + columns) % period < period / 2, *STRIPES)[..., None], 3, axis=-1)
    shown[valid] = np.clip((bands[valid] - low) / np.maximum(high - low, 1e-12), 0, 1)
    return shown


def _coverage(mask: Bool[np.ndarray, "height width"]) -> str:
    if mask.all():
        return ""
    return f" ({100 * mask.mean():.0f} % there)" if mask.any() else " (absent)"


def _legend(figure: Figure, classes: Sequence[str], colours: np.ndarray, *, ignored: bool) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colours[code], edgecolor="0.4", label=name) for code, name in enumerate(classes)]
    patches += [Patch(facecolor=IGNORED, edgecolor="0.4", label="no label or no data")] if ignored else []
    columns = max(1, min(len(patches), int(figure.get_figwidth() / 1.5)))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _line(axis: Axes, lines: Sequence[Mapping[str, Any]], value: Any, name: str, colour: str, **style: Any) -> None:
    """Plot value(line) over the lines' steps, if there is any."""
    points = [(line["step"], value(line)) for line in lines if value(line) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=name, color=colour, markersize=4, linewidth=1.5, **style)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
