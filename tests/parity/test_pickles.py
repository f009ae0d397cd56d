"""PyTorch's own files: what is plain weights is read, and what would run code is refused before it does."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from sgma_jax.errors import InputError
from sgma_jax.interop.weight_files import read_state_dict

torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs it: make test-parity")

pytestmark = pytest.mark.parity


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


WEIGHTS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.ones(2, dtype=torch.bfloat16),
    "count": torch.tensor(7),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_weights_are_read(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    got, beside = read_state_dict(path)
    assert beside == []
    np.testing.assert_array_equal(got["a.weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(got["a.bias"], [1, 1])
    assert got["count"].dtype == np.int64


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_what_a_training_script_saved_beside_the_weights_is_told(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "x.pth")
    got, beside = read_state_dict(tmp_path / "x.pth")
    assert set(got) == set(WEIGHTS)
    assert beside == ["epoch", "optimizer"]


@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "beside_weights"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path, created = tmp_path / "x.pth", tmp_path / "created"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Hostile(created)))
    else:
        what = {"model": WEIGHTS, "extra": Hostile(created)} if kind == "beside_weights" else Hostile(created)
        torch.save(what, path, _use_new_zipfile_serialization=kind != "legacy")
    created.unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"x.pth.*nothing of it was run"), warnings.catch_warnings(action="error"):
        read_state_dict(path)
    assert not created.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert created.exists(), "the file would have run something, so refusing it proves something"


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no zip"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"x.pt.*damaged"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "held", [torch.ones(3), [torch.ones(3)], {"a": 1}, {"state_dict": {"a": [1]}}, {1: torch.ones(2)}]
)
def test_what_is_no_dict_of_tensors_is_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"x.bin.*state_dict\(\)"):
        read_state_dict(tmp_path / "x.bin")
