"""Flags that a command does not have: which one is meant, in one line and before anything is written."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from sgma_jax.errors import InputError

Arguments = TypeVar("Arguments")
MEANT = {
    "--data.path": ("data", "dataset", "data-dir", "data-root", "data-path", "root"),
    "--data.batch-size": ("batch-size", "batch", "bs", "train-batch-size", "per-device-train-batch-size"),
    "--data.crop": ("crop-size", "crop", "patch-size", "image-size", "img-size", "size"),
    "--data.workers": ("workers", "num-workers", "nworkers"),
    "--optimizer.peak-learning-rate": ("lr", "learning-rate", "base-lr", "max-lr"),
    "--optimizer.weight-decay": ("wd", "weight-decay"),
    "--steps": ("iterations", "iters", "max-iters", "max-steps", "num-steps"),
    "--warmup-steps": ("warmup", "warmup-iters"),
    "--workdir": ("work-dir", "output", "output-dir", "out-dir", "save-dir", "log-dir", "logdir", "run-dir", "exp-dir"),
    "--model.pretrained": ("pretrained", "weights", "backbone-weights"),
    "--data-path": ("data", "dataset", "data-dir", "data-root"),
    "--sensor": ("input", "image", "images", "sensors", "modality"),
    "--out": ("output", "output-file", "o"),
    "--batch": ("batch-size", "bs"),
    "--window": ("tile-size", "patch-size", "crop-size"),
}
"""Flags, and what other programs call them. Of several flags of one name, the one that the command has is meant."""
ADVICE = {
    "steps, not epochs, are counted: an epoch is as many --steps as records / --data.batch-size": (
        *("epochs", "num-epochs", "max-epochs", "n-epochs"),
    ),
    "JAX takes the accelerator that it finds, and JAX_PLATFORMS=cpu keeps it off": (
        *("gpu", "gpus", "gpu-id", "gpu-ids", "device", "devices", "cuda", "cpu", "accelerator"),
    ),
    "a preset chooses the kinds of encoder and fusion; copy one and change it": (
        *("model", "arch", "backbone", "encoder", "fusion"),
    ),
    "the computation's type is model.dtype of the preset": ("amp", "fp16", "bf16", "half", "precision"),
}


def flags_of(kind: Any, prefix: str = "") -> set[str]:
    """Return the flags of a dataclass, or of an instance, whose own kinds then count."""
    flags = set()
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        value = None if isinstance(kind, type) else getattr(kind, field.name)
        if dataclasses.is_dataclass(value):
            flags |= flags_of(value, f"{name}.")
        else:
            flags |= {f"--{name}", f"--{prefix}no-{field.name.replace('_', '-')}"}
    return flags


def check_flags(command: str, arguments: Sequence[str], known: set[str]) -> None:
    """Raise InputError for the first flag that is not `known`, naming the one that is meant."""
    for word in arguments:
        flag = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and flag not in known | {"--help", "--"}:
            raise InputError(f"{command} has no flag {word.partition('=')[0]}{_way_out(flag, known)} See --help.")


def parse(kind: type[Arguments], arguments: Sequence[str], command: str) -> Arguments:
    """Return a command's arguments as its dataclass; wrong ones end the program, `--help` too."""
    check_flags(command, arguments, flags_of(kind))
    return tyro.cli(kind, args=list(arguments), prog=command)


def _way_out(flag: str, known: set[str]) -> str:
    name = flag.removeprefix("--").rpartition(".")[2]
    for meant, others in MEANT.items():
        if name in others and meant in known:
            return f"; {meant} is meant."
    for advice, others in ADVICE.items():
        if name in others:
            return f": {advice}."
    by_name = {known_flag.removeprefix("--").rpartition(".")[2]: known_flag for known_flag in sorted(known)}
    near = difflib.get_close_matches(flag, known, 1, 0.75) or difflib.get_close_matches(name, by_name, 1, 0.75)
    return f"; is {by_name.get(near[0], near[0])} meant?" if near else "."
