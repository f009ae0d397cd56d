"""Checkpoints that hold everything a resumed run needs, all or nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from sgma_jax.config import TrainConfig
from sgma_jax.distributed import all_agree, from_writer, is_writer, wait_for_all
from sgma_jax.errors import InputError
from sgma_jax.runs.fingerprints import fingerprints
from sgma_jax.runs.folder import in_bucket, kept_in
from sgma_jax.runs.names import CHECKPOINTS
from sgma_jax.structs import TrainState

DAMAGED = "damaged_checkpoints"
WHY_DAMAGED = (
    "Checkpoints that could not be read, and from which training did not go on. Delete them when nobody wants to "
    "look at them.\n"
)
ITEMS = ("model", "optimizer", "sampling", "progress")
SPARE_DISK = 2 << 20
"""[C] Bytes that a checkpoint takes besides its arrays: indices, metadata, and what is compressed badly."""


class Bookkeeping(NamedTuple):
    """The part of a checkpoint that is no array."""

    position: int
    """Global batches read: all that the input pipelines of all hosts, however many, need in order to go on."""
    faults: dict[str, Any]
    """Faults so far, as step_reports.Faults counts them."""
    manifest_hash: str
    """Of the data set that it was trained on."""
    devices: int
    processes: int
    """Devices and processes that saved it."""


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    step: int
    state: TrainState
    sampling: dict[str, Any]
    """State of the sampling table; empty without MAS."""
    progress: Bookkeeping


class Keep(NamedTuple):
    """Which checkpoints stay on disk, in the sense of the configuration's fields; the newest always does."""

    newest: int
    every: int = 0
    best: int = 0


def newest_step(folder: Path, config: TrainConfig | None = None) -> int | None:
    """The newest complete step of a run's folder, which is left as it is; None where there is none."""
    checkpoints = kept_in(folder, config) / CHECKPOINTS
    steps = ocp.utils.checkpoint_steps(checkpoints) if checkpoints.is_dir() else []
    return max(steps, default=None)


class RestoredModel(NamedTuple):
    """A checkpoint without the optimiser's state."""

    step: int
    variables: dict[str, Any]
    """Parameters and running statistics."""
    manifest_hash: str
    """Of the data set that it was trained on."""


def restore_newest_model(folder: Path, shapes: Any) -> RestoredModel:
    """Return the model of the newest undamaged step of a run.

    `shapes` as for `Checkpoints.restore_newest`. Damaged steps are named on stderr and left where they are. Raises
    InputError for a run that has no checkpoint.
    """
    if newest_step(folder) is None:
        raise InputError(f"{folder} has no checkpoint yet; train it first with `sgma train`.")
    reader = _Reader(kept_in(folder))
    step, (variables, progress, _), damaged = reader.newest(lambda step: reader.model(step, shapes))
    for line in damaged:
        print(line, file=sys.stderr)
    reader.close()
    return RestoredModel(step, variables, progress.manifest_hash)


class Checkpoints:
    """The checkpoints of a run. A step is complete or not there at all; saving goes on in the background.

    Called by all processes alike. What of earlier steps stays on disk is said by `keep`; None keeps all.
    """

    def __init__(self, folder: Path, keep: Keep | None, config: TrainConfig | None = None) -> None:
        self._folder = kept_in(folder, config)
        self._scores: dict[int, float] = {}
        # Named processes meet at the coordinator; otherwise Orbax's thread would do so by a collective, amid those of
        # the training steps.
        everyone = ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))
        options = ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=_Preservation(keep, self._scores),
            enable_async_checkpointing=True,
            multiprocessing_options=everyone,
        )
        if is_writer():
            (self._folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        wait_for_all("made the folder of checkpoints")
        self._manager = ocp.CheckpointManager(self._folder / CHECKPOINTS, options=options, item_names=ITEMS)

    def latest(self) -> int | None:
        """The newest complete step, damaged or not, or None."""
        return self._manager.latest_step()

    def scored(self, step: int, average: float | None) -> None:
        """A step's average mIoU, by which the best checkpoints are known."""
        if average is not None:
            self._scores[step] = average

    def check_room(self, state: TrainState) -> None:
        """Raise InputError unless the disk has room for a checkpoint.

        Asked before and not found out midway, because TensorStore's threads tell of each failed write on stderr by
        themselves.
        """
        if in_bucket(self._folder):
            return
        needed = SPARE_DISK + sum(x.nbytes for x in jax.tree.leaves(state))  # trained floats hardly compress
        free = from_writer(shutil.disk_usage(self._manager.directory).free)
        if free < needed:
            raise InputError(
                f"{self._manager.directory}: the disk is full, with {free / 1e6:.0f} MB free where a checkpoint needs "
                f"{needed / 1e6:.0f} MB. "
                f"Free some space and run the same command again; it goes on from step {self.latest() or 0}."
            )

    def save(
        self, step: int, state: TrainState, sampling: dict[str, Any], faults: dict[str, Any], manifest_hash: str
    ) -> None:
        """Start saving a step; what is passed in may be changed or donated as soon as this returns.

        Raises InputError where the disk has no room for it; what was saved before stays.
        """
        self.wait()
        self.check_room(state)
        model, optimizer = {"params": state.params, "batch_stats": state.batch_stats}, _optimizer_tree(state)
        progress = Bookkeeping(step, faults, manifest_hash, jax.device_count(), jax.process_count())._asdict()
        progress["fingerprints"] = {
            "model": fingerprints(model),
            "optimizer": fingerprints(optimizer),
            "sampling": _checksum(sampling),
        }
        progress["checksum"] = zlib.crc32(json.dumps(progress, sort_keys=True).encode())
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                optimizer=ocp.args.StandardSave(optimizer),
                sampling=ocp.args.StandardSave(sampling or {"none": 0}),
                progress=ocp.args.JsonSave(progress),
            ),
        )

    def restore_newest(self, shapes: TrainState) -> tuple[Restored, list[str]]:
        """The newest undamaged step, and a line for each damaged one, which is moved to RUN/damaged_checkpoints.

        `shapes` holds a jax.ShapeDtypeStruct with its sharding for every array: the devices need not be those that
        it was saved on. Raises InputError where every step is damaged; then all stay where they are.
        """
        reader = _Reader(self._folder)
        step, restored, damaged = reader.newest(lambda step: reader.everything(step, shapes))
        reader.close()
        for bad in (s for s in self._manager.all_steps() if s > step):
            if is_writer():
                target = self._folder / DAMAGED / str(bad)
                target.parent.mkdir(parents=True, exist_ok=True)
                (target.parent / "README.txt").write_text(
                    WHY_DAMAGED
                )  # a bucket has no empty folders, and epath moves into none
                while target.exists():  # the same step, damaged before
                    target = target.parent / f"{target.name}_"
                (self._folder / CHECKPOINTS / str(bad)).rename(target)
        wait_for_all("moved damaged checkpoints")
        self._manager.reload()
        return restored, damaged

    def wait(self) -> None:
        """Return when everything that was saved is on disk; raises what went wrong meanwhile."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then let go of the folder."""
        self._manager.close()


T = TypeVar("T")


class _Reader:
    """Reads steps. Each process reads for itself and they agree afterwards: none waits for one that has met a
    damaged file."""

    def __init__(self, folder: epath.Path) -> None:
        self._folder = folder
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"reader{jax.process_index()}",
        )
        options = ocp.CheckpointManagerOptions(
            read_only=True, create=False, enable_async_checkpointing=False, multiprocessing_options=alone
        )
        self._manager = ocp.CheckpointManager(self._folder / CHECKPOINTS, options=options, item_names=ITEMS)
        self.close = self._manager.close

    def newest(self, read: Callable[[int], T]) -> tuple[int, T, list[str]]:
        """The newest step that can be read, what `read` made of it, and a line for each that cannot."""
        damaged: list[str] = []
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            got, reason = None, "it is damaged on another host"
            try:
                got = read(step)
            except Exception as error:  # Orbax, TensorStore, zlib and JSON have their own kinds for a damaged file
                reason = " ".join(str(error).split(" See full ")[0].split())[:200] or type(error).__name__
            if all_agree(got is not None):
                assert got is not None
                return step, got, [f"{line} Going on from step {step} instead." for line in damaged]
            damaged.append(f"{self._folder / CHECKPOINTS / str(step)} is damaged ({reason}).")
        raise InputError(
            f"no checkpoint can be read: {' '.join(damaged)} Restore the folder from a copy, or use another --workdir."
        )

    def model(self, step: int, shapes: Any) -> tuple[dict[str, Any], Bookkeeping, dict[str, Any]]:
        """Variables, progress, and the fingerprints that every item was saved with; of these the model's agrees."""
        got = self._manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore())
        )
        progress, expected = _checked(got["progress"])
        _compare("model", fingerprints(got["model"]), expected["model"])
        return got["model"], progress, expected

    def everything(self, step: int, shapes: TrainState) -> Restored:
        model, progress, expected = self.model(step, {"params": shapes.params, "batch_stats": shapes.batch_stats})
        items = ocp.args.Composite(
            optimizer=ocp.args.StandardRestore(_optimizer_tree(shapes)), sampling=ocp.args.StandardRestore()
        )
        got = self._manager.restore(step, args=items)
        _compare("optimizer", fingerprints(got["optimizer"]), expected["optimizer"])
        sampling = {} if "none" in got["sampling"] else got["sampling"]
        _compare("sampling", _checksum(sampling), expected["sampling"])
        optimizer = serialization.from_state_dict(
            {"step": shapes.step, "opt_state": shapes.opt_state}, got["optimizer"]
        )
        return Restored(step, TrainState(**model, **optimizer), sampling, progress)


@dataclasses.dataclass
class _Preservation:
    """Orbax's protocol: of the steps on disk, which stay."""

    keep: Keep | None
    scores: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [c.step for c in checkpoints]
        if self.keep is None:
            return [True] * len(steps)
        best = sorted((s for s in steps if s in self.scores), key=lambda s: (-self.scores[s], s))[: self.keep.best]
        stay = {
            *sorted(steps)[-self.keep.newest :],
            *best,
            *(s for s in steps if self.keep.every and s % self.keep.every == 0),
        }
        return [s in stay for s in steps]


def _checked(progress: dict[str, Any]) -> tuple[Bookkeeping, dict[str, Any]]:
    """The progress and the fingerprints that were saved with it; ValueError where it is not what was written."""
    checksum = progress.pop("checksum", None)
    if checksum != zlib.crc32(json.dumps(progress, sort_keys=True).encode()):
        raise ValueError("the checksum of progress differs")
    expected = progress.pop("fingerprints")
    return Bookkeeping(**progress), expected


def _compare(item: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"the fingerprint of {item} differs")


def _checksum(arrays: dict[str, Any]) -> int:
    """Return the checksum of arrays in nested dicts, with their names and types."""
    checksum = 0
    for path, leaf in sorted(
        jax.tree_util.tree_leaves_with_path(arrays), key=lambda entry: jax.tree_util.keystr(entry[0])
    ):
        array = np.ascontiguousarray(leaf)
        checksum = zlib.crc32(
            f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes(), checksum
        )
    return checksum


def _optimizer_tree(state: TrainState) -> dict[str, Any]:
    """Plain nested dicts, so that a checkpoint's paths do not depend on Optax's classes."""
    return serialization.to_state_dict({"step": state.step, "opt_state": state.opt_state})
