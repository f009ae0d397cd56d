"""Checkpoints: all or nothing, and nothing lost that was there."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sgma_jax.checkpointing import Checkpoints
from sgma_jax.errors import InputError
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
