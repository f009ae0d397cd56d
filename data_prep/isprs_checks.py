"""Checks of one file of Potsdam or Vaihingen, or of two that must agree. They read strip by strip and raise nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
from rasterio.windows import Window

from data_prep.findings import Finding, Severity
from data_prep.isprs import File, Kind, is_data
from data_prep.isprs_colours import BOUNDARY, UNKNOWN, decode, is_off_palette
from sgma_jax.data.rasters import Rasters
from sgma_jax.errors import InputError

ROWS = 512
"""Rows of a strip."""
ERODED_DIFFERENCE = 1e-3
"""[C] Share of pixels in which an eroded label may name another class than the full one: re-encoded copies differ in
a few."""
MISPLACED = 1.5
"""[C] Pixels by which two files' positions may differ: one that is missing, and the half by which conventions
differ."""


def check_format(rasters: Rasters, file: File, kind: Kind) -> list[Finding]:
    """An error where the file does not open or is not what the product should be. An empty file is told elsewhere,
    as missing."""
    if not file.path.stat().st_size:
        return []
    try:
        dataset = rasters.open(file.path)
    except InputError as error:
        return [_unreadable(file, error)]
    if dataset.count != kind.bands or dataset.dtypes[0] != kind.dtype:
        message = f"has {dataset.count} bands of {dataset.dtypes[0]}; {kind.what} has {kind.bands} of {kind.dtype}."
        return [Finding(Severity.ERROR, "format", file.name, message, "Restore the file as it was published.")]
    return []


def check_readable(rasters: Rasters, file: File) -> tuple[list[Finding], bool]:
    """Read all of an image: what is wrong, and whether it is empty (no byte, no pixel, or one value everywhere)."""
    if not file.path.stat().st_size:
        return [], True
    dataset = rasters.open(file.path)
    lowest, highest, invalid, first = np.inf, -np.inf, 0, ""
    try:
        for window, values in _strips(rasters, file):
            valid = is_data(values, dataset.nodatavals[0])
            if valid.any():
                seen = values[:, valid]
                lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
            if not valid.all():
                first = first or _place(~valid, window)
                invalid += int((~valid).sum())
    except InputError as error:
        return [_unreadable(file, error)], False
    if lowest >= highest:
        return [], True
    if invalid:
        message = f"{invalid} pixels are nodata or no possible height."
        return [Finding(Severity.NOTE, "holes", f"{file.name}, {first}", message, "Marked as not available.")], False
    return [], False


def check_label(rasters: Rasters, file: File, *, eroded: bool) -> list[Finding]:
    """Check that every pixel is a class: errors for other colours, a refusal for seams where there should be none, a
    note on damaged colours."""
    if not file.path.stat().st_size:
        return [Finding(Severity.ERROR, "unreadable", file.name, "is empty.", "Restore the file.")]
    counts = dict.fromkeys(("unknown", "boundary", "off"), 0)
    first = dict.fromkeys(counts, "")
    colours_seen: set[int] = set()
    try:
        for window, colours in _strips(rasters, file):
            codes, off = decode(colours), is_off_palette(colours)
            for name, where in (("unknown", codes == UNKNOWN), ("boundary", codes == BOUNDARY), ("off", off)):
                if where.any():
                    counts[name] += int(where.sum())
                    first[name] = first[name] or _place(where, window)
            if off.any():
                red, green, blue = colours[:, off].astype(np.uint32)
                colours_seen.update(np.unique(red << 16 | green << 8 | blue).tolist())
    except InputError as error:
        return [_unreadable(file, error)]
    found: list[Finding] = []
    if counts["unknown"]:
        message = f"{counts['unknown']} pixels are nearest to magenta, which is no class."
        remedy = "Restore the file; if it is an image and no label, correct its folder or name."
        found.append(Finding(Severity.ERROR, "unknown-colour", f"{file.name}, {first['unknown']}", message, remedy))
    if counts["boundary"] and not eroded:
        message = f"{counts['boundary']} pixels are black, which only eroded labels have."
        remedy = "Put the full labels there; accepted, these pixels are ignored."
        found.append(Finding(Severity.REFUSED, "eroded-label", f"{file.name}, {first['boundary']}", message, remedy))
    if counts["off"]:
        message = f"{counts['off']} pixels have one of {len(colours_seen)} colours that are not in the palette."
        remedy = "Read as the palette's colour on the same side of 127 in every channel."
        found.append(Finding(Severity.NOTE, "off-palette", f"{file.name}, {first['off']}", message, remedy))
    return found


def check_grid(
    rasters: Rasters, file: File, label: File, *, may_be_short: bool
) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Row and column of the label on which a file's first pixel lies, None where it cannot be laid over the label;
    and what is odd.

    ISPRS' files are cut alike, so nothing is resampled. A height model may be short of a row or column, as 03_13 of
    Potsdam is; which one, the files' positions tell, and without them it is the last.
    """
    image, grid = rasters.open(file.path), rasters.open(label.path)
    short = (grid.height - image.height, grid.width - image.width)
    sizes = f"has {image.height} x {image.width} pixels, {label.name} has {grid.height} x {grid.width}"
    if min(short) < 0 or max(short) > (1 if may_be_short else 0):
        return None, [
            Finding(Severity.ERROR, "size", file.name, f"{sizes}.", "Restore both files as they were published.")
        ]
    offset, found = (0, 0), []
    if not (image.transform.is_identity or grid.transform.is_identity):
        column, row, _ = np.linalg.solve(
            np.array(grid.transform).reshape(3, 3), (image.transform.c, image.transform.f, 1.0)
        )
        if not (-MISPLACED <= row <= short[0] + MISPLACED and -MISPLACED <= column <= short[1] + MISPLACED):
            message = f"begins {row:.0f} rows and {column:.0f} columns beside {label.name}."
            remedy = (
                "Check whether one of them is of another place; accepted, they are laid over each other corner to "
                "corner."
            )
            found.append(Finding(Severity.REFUSED, "misplaced", file.name, message, remedy))
        else:
            offset = (min(max(round(row), 0), short[0]), min(max(round(column), 0), short[1]))
    if any(short):
        lines = [
            f"{name} {'first' if o else 'last'}"
            for name, s, o in zip(("row", "column"), short, offset, strict=True)
            if s
        ]
        remedy = f"Not available there ({' and '.join(lines)})."
        found.append(Finding(Severity.NOTE, "short-dsm", file.name, f"{sizes}.", remedy))
    return offset, found


def check_same_band(rasters: Rasters, file: File, band: int, other: File, other_band: int) -> list[Finding]:
    """An error where two files that must hold the same near infrared do not."""
    differing, first = 0, ""
    for window, values in _strips(rasters, file, [band]):
        different = values[0] != rasters.window(other.path, [other_band], window)[0]
        if different.any():
            first = first or _place(different, window)
            differing += int(different.sum())
    if not differing:
        return []
    message = (
        f"band {band} differs from band {other_band} of {other.name} in {differing} pixels; both are the near infrared."
    )
    remedy = "Restore both files; one of them is damaged, of another place, or has its bands in another order."
    return [Finding(Severity.ERROR, "nir-disagrees", f"{file.name}, {first}", message, remedy)]


def check_eroded(rasters: Rasters, eroded: File, full: File) -> list[Finding]:
    """Check that an eroded label is the full one of the same area."""
    grids = [rasters.open(f.path).shape for f in (eroded, full)]
    if grids[0] != grids[1]:
        message = f"has {grids[0]} pixels, {full.name} has {grids[1]}."
        return [Finding(Severity.ERROR, "size", eroded.name, message, "Restore both files as they were published.")]
    differing, pixels, first = 0, 0, ""
    for window, colours in _strips(rasters, eroded):
        codes = decode(colours)
        different = (codes != BOUNDARY) & (codes != decode(rasters.window(full.path, [1, 2, 3], window)))
        if different.any():
            first = first or _place(different, window)
            differing += int(different.sum())
        pixels += different.size
    if not differing:
        return []
    message = f"names another class than {full.name} in {differing} pixels."
    place = f"{eroded.name}, {first}"
    if differing > ERODED_DIFFERENCE * pixels:
        remedy = "Check whether one of them is of another place; accepted, the eroded label counts."
        return [Finding(Severity.REFUSED, "eroded-disagrees", place, message, remedy)]
    return [Finding(Severity.NOTE, "eroded-disagrees", place, message, "The eroded label counts.")]


def levels_per_metre(rasters: Rasters, normalised: File, absolute: File) -> float | None:
    """Grey levels of a normalised height model per metre: the ratio of both models' steps along rows; None where
    there are too few.

    A normalised height is the absolute one less the ground's, which changes little over a step, so the ratio is the
    unit.
    """
    image, heights = rasters.open(normalised.path), rasters.open(absolute.path)
    rows, columns, step = min(image.height, heights.height), min(image.width, heights.width), 16
    window = Window(0, max(0, rows // 2 - ROWS), columns, min(2 * ROWS, rows))
    levels = rasters.window(normalised.path, [1], window)[0].astype(np.float64)
    metres = rasters.window(absolute.path, [1], window)[0].astype(np.float64)
    metres[~is_data(metres[None], heights.nodatavals[0])] = np.nan
    rise, climb = metres[:, step:] - metres[:, :-step], levels[:, step:] - levels[:, :-step]
    unsaturated = (levels > 0) & (levels < 255)
    steep = (np.abs(rise) > 2.0) & unsaturated[:, step:] & unsaturated[:, :-step]
    return statistics.median((climb[steep] / rise[steep]).tolist()) if steep.sum() >= 100 else None


def _strips(rasters: Rasters, file: File, bands: list[int] | None = None) -> Iterator[tuple[Window, np.ndarray]]:
    dataset = rasters.open(file.path)
    for first in range(0, dataset.height, ROWS):
        window = Window(0, first, dataset.width, min(ROWS, dataset.height - first))
        yield window, rasters.window(file.path, bands or list(dataset.indexes), window)


def _place(where: np.ndarray, window: Window) -> str:
    row, column = np.unravel_index(int(where.argmax()), where.shape)
    return f"row {window.row_off + row}, column {column}"


def _unreadable(file: File, error: InputError) -> Finding:
    # The error names the file as it lies on this machine, perhaps unpacked; the finding, as it is called in the source.
    return Finding(
        Severity.ERROR,
        "unreadable",
        file.name,
        str(error).replace(str(file.path), "the file"),
        "Download or unpack it again.",
    )
