"""Checkpoints: all or nothing, and nothing lost that was there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgma_jax.errors import InputError
from sgma_jax.runs.checkpoints import Checkpoints, Keep, newest_step
from sgma_jax.structs import TrainState


def test_a_checkpoint_for_which_there_is_no_room_is_refused_and_the_one_before_stays(small_disk: Path) -> None:
    state = TrainState(jnp.ones((), jnp.int32), {"kernel": jax.random.normal(jax.random.key(0), (3 << 20,))}, {}, {})
    checkpoints = Checkpoints(small_disk, keep=None)
    checkpoints.save(10, state, {}, {"unapplied_steps": 4}, "hash")
    with pytest.raises(InputError, match=r"the disk is full.*goes on from step 10"):
        checkpoints.save(20, state, {}, {"unapplied_steps": 8}, "hash")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    restored, damaged = checkpoints.restore_newest(shapes)
    checkpoints.close()
    assert (restored.state.params["kernel"] == state.params["kernel"]).all()
    assert (restored.step, restored.progress.faults, damaged) == (10, {"unapplied_steps": 4}, [])
    assert [p.name for p in small_disk.iterdir() if p.name != "checkpoints"] == []
    assert sorted(p.name for p in (small_disk / "checkpoints").iterdir()) == ["10"]


def state_at(step: int) -> TrainState:
    return TrainState(
        jnp.int32(step),
        {"kernel": jnp.arange(40_000.0) * step, "bias": jnp.ones(3)},
        {"mean": jnp.zeros(3)},
        {"count": jnp.int32(step)},
    )


def saved(folder: Path, steps: list[int], keep: Keep | None = None, scores: dict[int, float] | None = None) -> Any:
    """A run's folder with these steps, saved in turn; the shapes that they are restored with."""
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(
            step, state_at(step), {"rows": np.full((4, 2), step, float)}, {"unreadable_records": [step]}, "hash"
        )
        checkpoints.scored(step, (scores or {}).get(step))
    checkpoints.wait()
    checkpoints.close()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))


def test_a_byte_changed_in_any_file_of_a_checkpoint_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    shapes = saved(tmp_path / "run", [10, 20])
    noticed = []
    files = sorted(
        f.relative_to(tmp_path / "run")
        for f in (tmp_path / "run" / "checkpoints" / "20").rglob("*")
        if f.is_file() and f.stat().st_size
    )
    for number, file in enumerate(files):
        run = tmp_path / str(number)
        shutil.copytree(tmp_path / "run", run)
        data = bytearray((run / file).read_bytes())
        data[len(data) // 2] ^= 16
        (run / file).write_bytes(data)
        checkpoints = Checkpoints(run, None)
        restored, damaged = checkpoints.restore_newest(shapes)
        checkpoints.close()
        if damaged:
            noticed.append(file)
            assert restored.step == 10
            assert "20 is damaged" in damaged[0]
            assert damaged[0].endswith("Going on from step 10 instead.")
            assert (run / "damaged_checkpoints" / "20").is_dir()
            assert newest_step(run) == 10
        want = state_at(restored.step)
        jax.tree.map(np.testing.assert_array_equal, restored.state, want)
        assert restored.progress.faults == {"unreadable_records": [restored.step]}
        assert (restored.sampling["rows"] == restored.step).all()
    assert {"model", "optimizer", "sampling", "progress"} <= {f.parts[2] for f in noticed}


def test_where_every_checkpoint_is_damaged_all_stay_where_they_are_and_the_error_says_so(tmp_path: Path) -> None:
    shapes = saved(tmp_path, [10, 20])
    for step in ("10", "20"):
        shutil.rmtree(tmp_path / "checkpoints" / step / "model")
    checkpoints = Checkpoints(tmp_path, None)
    with pytest.raises(InputError, match=r"no checkpoint can be read.*20 is damaged.*10 is damaged.*another --workdir"):
        checkpoints.restore_newest(shapes)
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "20"]


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Keep(newest=1), [60]),
        (Keep(newest=2, every=20), [20, 40, 50, 60]),
        (Keep(newest=1, best=2), [10, 30, 60]),
        (None, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_the_newest_the_best_and_every_so_many_checkpoints_stay(
    keep: Keep | None, stay: list[int], tmp_path: Path
) -> None:
    saved(tmp_path, [10, 20, 30, 40, 50, 60], keep, {10: 0.5, 20: 0.2, 30: 0.7, 40: 0.1, 50: 0.3, 60: 0.4})
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == stay
