"""Files of weights that cannot be used end in one clear error, and none of what they hold is run. tests/parity has
the pickles that can."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sgma_jax.errors import InputError
from sgma_jax.interop.weight_files import read_state_dict


def test_safetensors_are_read_in_every_precision(tmp_path: Path) -> None:
    import ml_dtypes

    given = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(2, np.float16),
        "c": np.array(3),
        "d": np.ones(2, ml_dtypes.bfloat16),
    }
    save_file(given, tmp_path / "x.safetensors")
    got, beside = read_state_dict(tmp_path / "x.safetensors")
    assert beside == []
    assert {k: v.dtype for k, v in got.items()} == {k: v.dtype for k, v in given.items()}
    for name, array in given.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_a_damaged_safetensors_file_is_an_input_error_that_names_it(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((20, 20), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"x.safetensors.*get it again"):
        read_state_dict(path)


def test_a_missing_file_and_a_file_of_another_kind_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.pth: no such file"):
        read_state_dict(tmp_path / "nowhere.pth")
    (tmp_path / "x.npz").touch()
    with pytest.raises(InputError, match=r"x.npz.*\.safetensors, \.pth, \.pt, \.bin"):
        read_state_dict(tmp_path / "x.npz")


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_without_pytorch_a_pickle_is_refused_unread_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "created")))
    with pytest.raises(InputError, match=r"x.pth.*pip install 'sgma_jax\[torch\]'"):
        read_state_dict(path)
    assert not (tmp_path / "created").exists()
