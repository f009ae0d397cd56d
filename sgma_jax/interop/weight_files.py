"""Files of weights: safetensors read and written, and PyTorch's pickles read through its own restricted reader."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically

PICKLES = (".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model")
"""Names under which training scripts keep the weights, beside what else they save."""


def read_state_dict(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a file by name, and what else lies beside them in a training script's checkpoint.

    Raises InputError for a file that is missing, damaged or of another kind, and for a pickle that holds anything
    but weights, of which nothing is run.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the file of weights that you downloaded.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0], []
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise InputError(
        f"{path}: {path.suffix or 'no suffix'} is no kind of weights that is read here. Give a .safetensors, "
        f"{', '.join(PICKLES)} file."
    )


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata. Raises InputError where it is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: no whole safetensors file ({error}); get it again.") from error


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file, or leave the former one as it was. Raises InputError where the path cannot be
    written."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give --out a file, such as {path / 'weights.safetensors'}.")
    try:
        write_atomically(path, save(arrays, metadata))
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: it cannot be written ({error.strerror}); give another --out.") from error


def _read_pickle(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: a {path.suffix} file is read by PyTorch, which is not installed. "
            "Do `pip install 'sgma_jax[torch]'`, or get the weights as .safetensors."
        ) from error
    try:
        # Restricted to tensors and plain containers: what else a pickle asks for is refused before it is called.
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file fails in many ways, none of which is ours
        raise InputError(
            f"{path}: it is damaged or holds more than weights, so it was refused and nothing of it was run. "
            "Get the weights as .safetensors, or save the model's `state_dict()` alone."
        ) from error
    wrapper = next((w for w in WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(w), Mapping)), None)
    beside = [str(k) for k in loaded if k != wrapper] if wrapper else []
    tensors: Any = loaded[wrapper] if wrapper else loaded
    if not isinstance(tensors, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in tensors.items()
    ):
        raise InputError(f"{path}: it is no dict of tensors by name. Save the model's `state_dict()`.")
    return {k: (v.float() if v.is_floating_point() else v).detach().numpy() for k, v in tensors.items()}, beside
