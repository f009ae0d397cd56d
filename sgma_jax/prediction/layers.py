"""The contents of a map: from blended sums to its bands, and what is said about each band."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sgma_jax.errors import InputError
from sgma_jax.prediction.options import PredictOptions
from sgma_jax.prediction.windows import Labels, Rows
from sgma_jax.structs import IGNORE

SLAB = 64
"""Rows of pixels that are divided at once, so that 64-bit intermediates stay small."""
BITS = 7
"""Sensors that the band of used ones can tell apart; an eighth would make 255, which is nodata."""


@dataclass(frozen=True)
class Layers:
    """The bands of a map, and what its files say about themselves."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    sensors: tuple[str, ...]
    """Those that were given."""
    bits: tuple[int, ...]
    """Their bits in the band of used sensors."""
    confidence: bool
    used: bool
    robustness: tuple[str, ...]
    probabilities: bool

    def bands(self) -> list[tuple[str, dict[str, str]]]:
        """Description and tags of every band of the map."""
        bands = [("class", {f"class_{code}": name for code, name in enumerate(self.classes)})]
        if self.confidence:
            bands.append(("confidence", {"unit": "percent", "meaning": "probability of the class"}))
        if self.used:
            bands.append(
                ("used sensors", {f"bit_{bit}": name for bit, name in zip(self.bits, self.sensors, strict=True)})
            )
        bands += [
            (name, {"unit": "percent", "meaning": "share of the sensor in the answer"}) for name in self.robustness
        ]
        return bands

    def arrays(self, rows: Rows) -> dict[str, np.ndarray]:
        """The rows of every file: `map` [bands, rows, width] uint8 with nodata 255, and `probabilities` [classes,
        ...] float32 with NaN."""
        slabs = [
            self._slab(Rows(*(a[..., first : first + SLAB, :] for a in rows)))
            for first in range(0, rows.total.shape[0], SLAB)
        ]
        return {name: np.concatenate([slab[name] for slab in slabs], 1) for name in slabs[0]}

    def _slab(self, rows: Rows) -> dict[str, np.ndarray]:
        answered = rows.total > 0
        total = np.maximum(rows.total, 1)
        bands = [rows.sums.argmax(0)]
        if self.confidence:
            bands.append(_percent(rows.sums.max(0), total))
        if self.used:
            bands.append(rows.used)
        bands += [_percent(layer, total) for layer in rows.robustness]
        arrays = {"map": np.stack([np.where(answered, band, IGNORE).astype(np.uint8) for band in bands])}
        if self.probabilities:
            # Divided by their own sum, which rounding to 16 bits has moved away from the weights'.
            whole = np.maximum(rows.sums.sum(0, dtype=np.uint64), 1)
            shares = (rows.sums / whole).astype(np.float32)
            arrays["probabilities"] = np.where(answered, shares, np.float32(np.nan))
        return arrays

    def to_json(self) -> dict[str, Any]:
        """Return the fields as the journal has them; `layers_from_json` is the way back."""
        return asdict(self)


def choose_layers(labels: Labels, options: PredictOptions) -> Layers:
    """The bands that were asked for; InputError where they do not fit into a byte."""
    if options.used and max(labels.bits) >= BITS:
        raise InputError(f"--used has bits for the first {BITS} sensors of a run, and this one has more. Leave it out.")
    if len(labels.classes) >= IGNORE:
        raise InputError(f"the run has {len(labels.classes)} classes; a map holds fewer than {IGNORE}.")
    return Layers(
        classes=labels.classes,
        palette=labels.palette,
        sensors=tuple(m.name for m in labels.sensors),
        bits=labels.bits,
        confidence=options.confidence,
        used=options.used,
        robustness=labels.layers,
        probabilities=options.probabilities is not None,
    )


def layers_from_json(fields: dict[str, Any]) -> Layers:
    """Return the layers that `Layers.to_json` wrote, after JSON has made lists of their tuples."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Layers(**{**fields, "palette": tuple(tuple(colour) for colour in fields["palette"])})


def _percent(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Hundredths of the total, rounded in integers."""
    whole: np.ndarray = (sums.astype(np.uint64) * 100 + total // 2) // total
    return whole
