"""Values of rasters: which are none, and how a data set holds them."""

from __future__ import annotations

import numpy as np

from sgma_jax.data.schema import Modality

FILLS = (-9999.0, -999.0, -99999.0, -32768.0, 65535.0, 32767.0, 1e20, 9.96921e36)
"""[C] Numbers that programs write where they have none, often without declaring them (GDAL, ArcGIS, GRASS, CF)."""


def overflows(values: np.ndarray) -> np.ndarray:
    """Return where numbers of a floating type are the largest or lowest that it can hold: no measurement is."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape, bool)
    return np.asarray(np.abs(values) >= np.finfo(np.float32 if values.dtype.itemsize > 2 else values.dtype).max)


def is_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return where values of one band are its nodata value: nowhere where it has none."""
    if nodata is None or np.isnan(nodata):
        return np.zeros(values.shape, bool)
    if np.issubdtype(values.dtype, np.floating):
        return np.asarray(values == values.dtype.type(nodata))
    return np.asarray(values == nodata)


def is_brightness(dtype: np.dtype, nodata: float | None) -> bool:
    """Return whether a nodata value may be a real one in one band of several: 0, dark, or the largest of an unsigned
    type, overexposed [C]."""
    if nodata is None or nodata == 0:
        return True
    return bool(np.issubdtype(dtype, np.unsignedinteger)) and nodata == np.iinfo(dtype).max


def decibels(values: np.ndarray, available: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """10 log10 of intensities [..., bands] as float32, and where they are: values of 0 and less become not
    available."""
    positive = available & (values > 0).all(-1)
    return (10 * np.log10(np.where(positive[..., None], values, 1).astype(np.float64))).astype(np.float32), positive


def as_stored(values: np.ndarray, available: np.ndarray, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Return values [..., bands] of a sensor's files as its data set holds them, and where they are: in decibels where
    the modality says so, then clipped."""
    if modality.log:
        values, available = decibels(values, available)
    if modality.clip:
        values = np.clip(values, *modality.clip).astype(values.dtype)
    return values, available
