"""Where the windows of a scene lie, what they weigh where they overlap, and how their answers become rows of a map.

All blending is in integers: probabilities arrive as 16-bit fractions and weights are 256ths whose sums are exact, so
the sum does not depend on the order, and the same windows give the same bytes however they were grouped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from sgma_jax.data.schema import Modality
from sgma_jax.errors import InputError

CELL = 32
"""Coarsest stride of the network. Windows start at the same phase of it, so that a pixel lies in the same cell of
every window."""
ONE = 65535
"""The 16-bit integer that stands for 1."""
WEIGHT = 256
"""Sum of the weights of neighbouring windows along one axis."""


class Answers(NamedTuple):
    """Answers of a model to a batch of windows; arrays of numpy, or still on the device."""

    probabilities: Any
    """[batch, classes, window, window] uint16, in 65535ths; 0 where nothing is answered."""
    robustness: Any
    """[batch, layers, window, window] uint16, in 65535ths; no layers where none were asked for."""
    used: Any
    """[batch, window, window] uint16: bit m where the network took in the run's sensor m; 0 where it has no answer."""


@dataclass(frozen=True)
class Labels:
    """The meaning of the numbers of an answer."""

    modalities: tuple[Modality, ...]
    """Those that are predicted from, in the run's order."""
    bits: tuple[int, ...]
    """For each of them its number in the run, which is its bit in `Answers.used`."""
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    layers: tuple[str, ...]
    """Names of the layers of robustness."""


@runtime_checkable
class WindowModel(Protocol):
    """A function that answers batches of windows."""

    labels: Labels
    window: int
    """Side of the windows, in pixels."""
    batch: int
    """Windows in every call."""
    identity: dict[str, Any]
    """All that its answers depend on, as JSON."""

    def __call__(self, images: dict[str, np.ndarray], available: np.ndarray) -> Answers:
        """Answers of a batch of exactly `batch` windows: images [batch, window, window, bands], available [batch,
        sensor, window, window]."""


@dataclass(frozen=True)
class Tiling:
    """Windows over a scene: rows and columns of them, with overlap, reaching beyond the scene's edges."""

    height: int
    width: int
    """Of the scene, in pixels."""
    window: int
    """Side of a window, in pixels; a multiple of 32."""
    overlap: int
    """Pixels that neighbouring windows share; a multiple of 32, at most half a window."""

    def __post_init__(self) -> None:
        if self.window < CELL or self.window % CELL:
            raise InputError(
                f"--window is {self.window}; it must be a multiple of {CELL}, the network's coarsest stride."
            )
        if self.overlap % CELL or not 0 <= self.overlap <= self.window // 2:
            raise InputError(
                f"--overlap is {self.overlap}; it must be a multiple of {CELL} between 0 and half of --window "
                f"({self.window // 2})."
            )

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return self.window - self.overlap

    @property
    def margin(self) -> int:
        """Pixels by which the first window reaches beyond the scene, so that its edge is not the window's [C]."""
        return self.overlap // 2 // CELL * CELL

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return -(-self.height // self.stride)

    @property
    def columns(self) -> int:
        """Windows in a row."""
        return -(-self.width // self.stride)

    def start(self, number: int) -> int:
        """First pixel of a row or column of windows; before the scene it is negative."""
        return number * self.stride - self.margin

    def unit(self, row: int) -> tuple[int, int]:
        """Rows of pixels that are final when a row of windows is, from the first to one behind the last."""
        first = 0 if row == 0 else self.start(row)
        return first, self.height if row == self.rows - 1 else self.start(row + 1)

    @property
    def blind(self) -> int:
        """[C] Outermost pixels of a window that count for nothing where a neighbour sees them better: a quarter of
        the overlap.

        For a network that looks no further than this, the map is that of one window over the whole scene.
        """
        return self.overlap // 4

    def weights(self, number: int, count: int) -> np.ndarray:
        """[window] uint32, 256ths, along one axis, of window `number` of `count`; those of all windows add up to 256
        at every pixel.

        They rise as a squared sine over the middle half of the overlap; where there is no neighbour they are 256.
        """
        weights = np.full(self.window, WEIGHT, np.uint32)
        rise = np.zeros(self.overlap, np.uint32)
        ramp = self.overlap - 2 * self.blind
        rise[self.blind : self.blind + ramp] = np.rint(
            WEIGHT * np.sin(0.5 * np.pi * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
        )
        rise[self.blind + ramp :] = WEIGHT
        if number > 0:
            weights[: self.overlap] = rise
        if number < count - 1:
            weights[self.window - self.overlap :] = WEIGHT - rise
        return weights


def reflect(first: int, count: int, size: int) -> np.ndarray:
    """Pixels `first` to `first + count` of an axis of `size` pixels that is mirrored at its first and last pixel
    again and again."""
    if size == 1:
        return np.zeros(count, np.int64)
    folded = np.arange(first, first + count) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


class Rows(NamedTuple):
    """Finished rows of a scene."""

    sums: np.ndarray
    """[classes, rows, width] uint32: probabilities times weights."""
    robustness: np.ndarray
    """[layers, rows, width] uint32, likewise."""
    total: np.ndarray
    """[rows, width] uint32: ONE times the weights of the windows that answered."""
    used: np.ndarray
    """[rows, width] uint16 bits."""


class Blender:
    """Adds up windows, row of windows by row of windows, and hands out rows of pixels as they become final.

    Holds as many rows of windows as `strip` says, and the rows that the next ones share; a scene's height does not
    matter.
    """

    def __init__(self, tiling: Tiling, classes: int, layers: int, first: int, strip: int) -> None:
        self.tiling, self._first = tiling, first
        self._top = tiling.start(first)
        width = (tiling.columns - 1) * tiling.stride + tiling.window
        rows = (strip - 1) * tiling.stride + tiling.window
        self._sums = np.zeros((classes, rows, width), np.uint32)
        self._robustness = np.zeros((layers, rows, width), np.uint32)
        self._total = np.zeros((rows, width), np.uint32)
        self._used = np.zeros((rows, width), np.uint16)

    def add(self, row: int, column: int, probabilities: np.ndarray, robustness: np.ndarray, used: np.ndarray) -> None:
        """Add the answer of the window at (row, column) of the tiling."""
        tiling = self.tiling
        top, left = tiling.start(row) - self._top, column * tiling.stride
        place = (slice(top, top + tiling.window), slice(left, left + tiling.window))
        weights = tiling.weights(row, tiling.rows)[:, None] * tiling.weights(column, tiling.columns)
        for sums, values in ((self._sums, probabilities), (self._robustness, robustness)):
            for layer, value in zip(sums, values, strict=True):
                layer[place] += value * weights
        # 65535 times 256 times 256 is below 2^32.
        self._total[place] += np.where(used > 0, weights * np.uint32(ONE), np.uint32(0))
        self._used[place] |= used

    def finish(self, row: int) -> Rows:
        """The pixels of `tiling.unit(row)`, for which all windows must have been added, or left out because they see
        nothing."""
        first, last = self.tiling.unit(row)
        rows, columns = (
            slice(first - self._top, last - self._top),
            slice(self.tiling.margin, self.tiling.margin + self.tiling.width),
        )
        return Rows(*(a[..., rows, columns] for a in (self._sums, self._robustness, self._total, self._used)))

    def everything(self) -> Rows:
        """The whole scene, from a blender that holds all rows of windows."""
        first, last = self.tiling.margin, self.tiling.margin + self.tiling.height
        columns = slice(self.tiling.margin, self.tiling.margin + self.tiling.width)
        return Rows(*(a[..., first:last, columns] for a in (self._sums, self._robustness, self._total, self._used)))

    def move_to(self, row: int) -> None:
        """Forget everything above the windows of `row`; what they share with the row before stays."""
        by = self.tiling.start(row) - self._top
        for array in (self._sums, self._robustness, self._total, self._used):
            kept = array.shape[-2] - by
            array[..., :kept, :] = array[..., by:, :].copy()
            array[..., kept:, :] = 0
        self._top += by
