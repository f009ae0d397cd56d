"""A run's folder: its configuration, and checkpoints that hold everything a resumed run needs, all or nothing."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from flax import serialization

from sgma_jax.config import TrainConfig, differences, from_json, to_json
from sgma_jax.errors import InputError
from sgma_jax.structs import TrainState

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
# What may differ between a run and its continuation: where the data now lies, and how often things are looked at.
MAY_CHANGE = {"data.path", "data.workers", "data.evaluation_batch_size", "evaluate_every", "log_every", "keep_checkpoints"}
MAY_CHANGE |= {"fsdp", "space", "model.remat"}  # which change where things are computed, not what

SPARE_DISK = 2 << 20
"""[C] Bytes that a checkpoint takes besides its arrays: indices, metadata, and what is compressed badly."""


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    sampling: dict[str, Any]
    """State of the sampling table; empty without MAS."""
    iterator: Any
    """State of the Grain iterator."""
    manifest_hash: str
    """Of the data set that it was trained on."""


def prepare_run(folder: Path, config: TrainConfig) -> None:
    """Write the configuration into a new run's folder, or check that an existing run is of the same experiment.

    Raises InputError for a run of another preset, naming the fields that differ.
    """
    path = folder / CONFIG_FILE
    if path.exists():
        different = [d for d in differences(read_config(folder), config) if d not in MAY_CHANGE]
        if different:
            raise InputError(
                f"{path} is of another experiment (it differs in {', '.join(different)}). Use another --workdir, or the run's own preset."
            )
    elif folder.exists() and (folder / CHECKPOINTS).exists():
        raise InputError(f"{folder} holds checkpoints but no {CONFIG_FILE}; restore that file or use another --workdir.")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(to_json(config))
    os.replace(temporary, path)


def read_config(folder: Path) -> TrainConfig:
    """The configuration of a run; InputError where the folder is no run."""
    path = folder / CONFIG_FILE
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder} is not a run: it has no {CONFIG_FILE}. Give the --workdir of a `sgma train`.") from error
    try:
        return from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def newest_step(folder: Path) -> int | None:
    """The newest complete step of a run's folder, which is left as it is; None where there is none."""
    steps = ocp.utils.checkpoint_steps(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else []
    return max(steps, default=None)


def restore_newest_model(folder: Path, shapes: Any) -> tuple[int, dict[str, Any], str]:
    """The newest step of a run, its variables, and the manifest hash of the data set that it was trained on.

    `shapes` as for `Checkpoints.restore`. Raises InputError for a run that has no checkpoint.
    """
    step = newest_step(folder)
    if step is None:
        raise InputError(f"{folder} has no checkpoint yet; train it first with `sgma train`.")
    checkpoints = Checkpoints(folder, keep=None)
    variables, manifest_hash = checkpoints.restore_model(step, shapes)
    checkpoints.close()
    return step, variables, manifest_hash


class Checkpoints:
    """The checkpoints of a run. A step is complete or not there at all; saving goes on in the background.

    Of the newest steps `keep` stay, or all for None.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        names = ("model", "optimizer", "sampling", "progress")
        self._manager = ocp.CheckpointManager((folder / CHECKPOINTS).absolute(), options=options, item_names=names)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def check_room(self, state: TrainState) -> None:
        """Raise InputError unless the disk has room for a checkpoint.

        Asked before and not found out midway, because TensorStore's threads tell of each failed write on stderr by themselves.
        """
        needed = SPARE_DISK + sum(x.nbytes for x in jax.tree.leaves(state))  # trained floats hardly compress
        free = shutil.disk_usage(self._manager.directory).free
        if free < needed:
            raise InputError(
                f"{self._manager.directory}: the disk is full, with {free / 1e6:.0f} MB free where a checkpoint needs {needed / 1e6:.0f} MB. "
                f"Free some space and run the same command again; it goes on from step {self.latest() or 0}."
            )

    def save(self, step: int, state: TrainState, sampling: dict[str, Any], iterator: Any, manifest_hash: str) -> None:
        """Start saving a step; what is passed in may be changed or donated as soon as this returns.

        Raises InputError where the disk has no room for it; what was saved before stays.
        """
        self.wait()
        self.check_room(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave({"params": state.params, "batch_stats": state.batch_stats}),
                optimizer=ocp.args.StandardSave(_optimizer_tree(state)),
                sampling=ocp.args.StandardSave(sampling or {"none": 0}),
                progress=ocp.args.JsonSave({"iterator": _encode_iterator(iterator), "manifest_hash": manifest_hash}),
            ),
        )

    def restore(self, step: int, shapes: TrainState) -> Restored:
        """Read a step; `shapes` holds a jax.ShapeDtypeStruct with its sharding for every array."""
        model, manifest_hash = self.restore_model(step, {"params": shapes.params, "batch_stats": shapes.batch_stats})
        items = ocp.args.Composite(
            optimizer=ocp.args.StandardRestore(_optimizer_tree(shapes)), sampling=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
        )
        got = self._manager.restore(step, args=items)
        optimizer = serialization.from_state_dict({"step": shapes.step, "opt_state": shapes.opt_state}, got["optimizer"])
        sampling = {} if "none" in got["sampling"] else got["sampling"]
        return Restored(TrainState(**model, **optimizer), sampling, _decode_iterator(got["progress"]["iterator"]), manifest_hash)

    def restore_model(self, step: int, shapes: Any) -> tuple[dict[str, Any], str]:
        """Variables of a step, and the manifest hash of the data set that it was trained on."""
        got = self._manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()))
        return got["model"], got["progress"]["manifest_hash"]

    def wait(self) -> None:
        """Return when everything that was saved is on disk; raises what went wrong meanwhile."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then let go of the folder."""
        self._manager.close()


def _optimizer_tree(state: TrainState) -> dict[str, Any]:
    """Plain nested dicts, so that a checkpoint's paths do not depend on Optax's classes."""
    return serialization.to_state_dict({"step": state.step, "opt_state": state.opt_state})


def _encode_iterator(state: Any) -> Any:
    """Grain's states are dicts with workers, JSON already, or bytes, according to the pipeline."""
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else json.loads(json.dumps(state))


def _decode_iterator(state: Any) -> Any:
    return base64.b64decode(state["base64"]) if set(state) == {"base64"} else state
