"""Tables for the terminal: an evaluation, a converted set, a network's costs. Scores are fractions in files and
percent here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sgma_jax.data.schema import Manifest
from sgma_jax.runs.results import Analysis, Corruptions, Evaluation, Separability

BAR_WIDTH = 20
PIPED_WIDTH = 200
"""Columns where the output is no terminal, so that nothing is cut off."""


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print an evaluation (`evaluation/<split>.json`): scores of every subset of the sensors, then the paper's
    summaries.

    Where the classes fit beside the scores they are columns; otherwise a second table has them as rows, for each
    sensor alone and for all together.
    """
    console = console or Console(markup=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    table = subset_table(evaluation)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    console.print(subset_table(evaluation, classes=False))
    console.print(class_table(evaluation))


def subset_table(evaluation: Evaluation, *, classes: bool = True) -> Table:
    """One row per subset with mIoU, F1, OA, a bar and the classes' IoU, then Average, Top-1, Last-1 and the expected
    mIoU."""
    names = evaluation.classes if classes else ()
    partial = any(s.coverage not in (None, 1.0) for s in evaluation.subsets)
    title = (
        f"{evaluation.split}: percent, every subset of {len(evaluation.modalities)} sensors "
        f"({_protocol(evaluation.missing)})"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column("sensors", no_wrap=True)
    table.add_column("mIoU", justify="right", no_wrap=True, style="bold")
    table.add_column("", no_wrap=True, width=BAR_WIDTH)
    for name in ["F1", "OA", *(["coverage"] if partial else []), *names]:
        table.add_column(name, justify="right", no_wrap=True)
    for subset in evaluation.subsets:
        cells = [percent(subset.f1), percent(subset.oa)]
        cells += [percent(subset.coverage)] if partial else []
        cells += [percent(subset.iou.get(name)) for name in names]
        table.add_row(subset_name(subset.modalities), percent(subset.miou), bar(subset.miou), *cells)
    table.add_section()
    table.add_row("Average", percent(evaluation.average), bar(evaluation.average))
    for label, best in (("Top-1", evaluation.top1), ("Last-1", evaluation.last1)):
        if best is not None:
            table.add_row(f"{label} {subset_name(best.modalities)}", percent(best.miou), bar(best.miou))
    for probability, miou in evaluation.bernoulli.items():
        table.add_row(f"each lost with p = {probability}", percent(miou), bar(miou))
    return table


def class_table(evaluation: Evaluation) -> Table:
    """One row per class with its IoU for each sensor alone and for all together."""
    every = len(evaluation.modalities)
    shown = [s for s in evaluation.subsets if len(s.modalities) in (1, every)]
    table = Table(
        title="IoU per class", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True
    )
    table.add_column("class")
    for subset in shown:
        table.add_column(
            subset_name(subset.modalities) if len(subset.modalities) < every or every == 1 else "all", justify="right"
        )
    for name in evaluation.classes:
        table.add_row(name, *(percent(s.iou.get(name)) for s in shown))
    return table


def subset_name(names: Sequence[str]) -> str:
    """A subset as one word, "rgb+nir"."""
    return "+".join(names)


def percent(fraction: float | None) -> str:
    """A fraction as percent with two decimals; a dash where there is none, as for a class that does not occur."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def bar(fraction: float | None, width: int = BAR_WIDTH) -> Text:
    """A bar whose full length is 1, in steps of an eighth of a character."""
    eighths = round((fraction or 0.0) * width * 8)
    text = "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
    return Text(text, style="cyan")


def _protocol(missing: str) -> str:
    return "absent sensors are skipped" if missing == "skip" else "absent sensors are zeros"


def print_failures(found: Corruptions, console: Console | None = None) -> None:
    """Print what `sgma evaluate --corruptions` found: mIoU of all sensors with one of them failing, a row per kind
    and level."""
    table = Table(
        title=f"{found.split}: mIoU of all sensors while one fails (percent)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("what fails", no_wrap=True)
    for modality in found.modalities:
        table.add_column(modality, justify="right", no_wrap=True)
    cells: dict[tuple[str, float], dict[str, str]] = {}
    for failure in found.failures:
        cells.setdefault((failure.kind, failure.level), {})[failure.modality] = percent(failure.miou)
    table.add_row("nothing", *[percent(found.clean)] * len(found.modalities))
    table.add_row("it is missing", *(percent(found.missing_wholly.get(modality)) for modality in found.modalities))
    for (kind, level), row in cells.items():
        table.add_row(f"{kind.replace('_', ' ')} {level:g}", *(row[modality] for modality in found.modalities))
    (console or Console(markup=False)).print(table)


def print_analysis(found: Analysis, console: Console | None = None) -> None:
    """Print what `sgma evaluate --analysis` found: how well classes part in each sensor's features, then who is
    robust where."""
    console = console or Console(markup=False)
    table = Table(
        title=f"{found.split}: each sensor alone, features of the encoder > after fusion",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for head in ("sensor", "stride", "silhouette", *(f"variance in {name}" for name in found.classes)):
        table.add_column(head, justify="left" if head == "sensor" else "right", no_wrap=True)
    rows: dict[tuple[str, int], dict[str, Separability]] = {}
    for measured in found.separability:
        rows.setdefault((measured.modality, measured.stride), {})[measured.features] = measured
    for (modality, stride), pair in rows.items():
        before, after = pair["encoder"], pair["fused"]
        variances = [_change(before.variance[name], after.variance[name]) for name in found.classes]
        table.add_row(modality, str(stride), _change(before.silhouette, after.silhouette), *variances)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    console.print(table)
    if found.robustness is None:
        return
    table = Table(title="mean robustness where all sensors see (percent)", title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("class", "stride", *found.modalities):
        table.add_column(head, justify="left" if head == "class" else "right", no_wrap=True)
    for name in found.classes:
        for side, by_class in found.robustness.items():
            table.add_row(name, side, *(percent((by_class[name] or {}).get(modality)) for modality in found.modalities))
    console.print(table)


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{before:.2f} > {after:.2f}"


def print_dataset(manifest: Manifest, folder: Path, console: Console | None = None) -> None:
    """Print what a converted set holds: records and pixels per split, each sensor's statistics, and what its
    converter found."""
    console = console or Console(markup=False)
    schema, splits = manifest.schema, manifest.splits.values()
    table = Table(title=f"{schema.name}: {folder}", title_justify="left")
    table.add_column("")
    for split in manifest.splits:
        table.add_column(split, justify="right")
    rows = [("records", [counts.records for counts in splits])]
    rows += [
        (f"  with {name}", [counts.records_available[i] for counts in splits]) for i, name in enumerate(schema.names)
    ]
    rows += [
        (f"pixels {name}", [counts.labelled_pixels[i] for counts in splits]) for i, name in enumerate(schema.classes)
    ]
    rows += [("pixels ignored", [counts.ignored_pixels for counts in splits])]
    for name, numbers in rows:
        table.add_row(name, *(f"{number:,}" for number in numbers))
    console.print(table)

    table = Table(
        title=f"sensors, over the valid training pixels; tiles of {schema.tile} x {schema.tile}", title_justify="left"
    )
    for column in ("sensor", "type", "unit"):
        table.add_column(column)
    for column in ("available", "mean", "standard deviation"):
        table.add_column(column, justify="right")
    every = sum(counts.records for counts in splits) * schema.tile**2
    for i, modality in enumerate(schema.modalities):
        share = sum(counts.pixels_available[i] for counts in splits) / every
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (modality.mean, modality.std))
        table.add_row(modality.name, modality.type_text, modality.unit_text, f"{100 * share:.1f} %", mean, std)
    console.print(table)
    for finding in manifest.findings:
        console.print(f"note: {finding}", markup=False, highlight=False)


def print_inspection(costs: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `sgma inspect` found: parameters and multiply-adds by part."""
    modalities_and_size = (
        f"{'+'.join(costs['modalities'])}, {costs['classes']} classes, {costs['size']} x {costs['size']} pixels"
    )
    table = Table(title=f"{costs['name']}: {modalities_and_size}")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds", justify="right")
    for name, part in [*costs["parts"].items(), ("total", costs["total"])]:
        table.add_row(
            name,
            f"{part['parameters']:,}",
            f"{part['multiply_adds'] / 1e9:.3f} G",
            style="bold" if name == "total" else "",
        )
    (console or Console(markup=False)).print(table)
