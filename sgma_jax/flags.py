"""The words of a command as its dataclass; wrong ones are one line that says what is meant, before anything is
written."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from sgma_jax.errors import InputError

Arguments = TypeVar("Arguments")
Preset = TypeVar("Preset")
MEANT = {
    "--data.path": ("data", "dataset", "data-dir", "data-root", "data-path", "root"),
    "--data.batch-size": ("batch-size", "batch", "bs", "train-batch-size", "per-device-train-batch-size"),
    "--data.crop": ("crop-size", "crop", "patch-size", "image-size", "img-size", "size"),
    "--data.workers": ("workers", "num-workers", "nworkers"),
    "--optimizer.peak-learning-rate": ("lr", "learning-rate", "base-lr", "max-lr"),
    "--optimizer.weight-decay": ("wd", "weight-decay"),
    "--seed": ("random-seed", "rng-seed", "manual-seed", "random-state"),
    "--steps": ("iterations", "iters", "max-iters", "max-steps", "num-steps"),
    "--warmup-steps": ("warmup", "warmup-iters"),
    "--workdir": ("work-dir", "output", "output-dir", "out-dir", "save-dir", "log-dir", "logdir", "run-dir", "exp-dir"),
    "--model.pretrained": ("pretrained", "weights", "backbone-weights"),
    "--data-path": ("data", "dataset", "data-dir", "data-root"),
    "--sensor": ("input", "image", "images", "sensors", "modality"),
    "--out": ("output", "output-file", "o"),
    "--batch": ("batch-size", "bs", "eval-batch-size", "evaluation-batch-size"),
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
    hints = get_type_hints(kind if isinstance(kind, type) else type(kind), include_extras=True)
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        value = getattr(kind, field.name, None)
        bare, *annotations = get_args(hints[field.name]) or [hints[field.name]]
        if isinstance(kind, type) and dataclasses.is_dataclass(bare):
            # A group in the arguments of a command; those that are annotated are so for having no prefix.
            flags |= flags_of(bare, prefix if annotations else f"{name}.")
        elif not isinstance(kind, type) and dataclasses.is_dataclass(value):
            flags |= flags_of(value, f"{name}.")
        else:
            flags.add(f"--{name}")
            if bare is bool:
                flags.add(f"--{prefix}no-{field.name.replace('_', '-')}")
    return flags


def check_flags(command: str, arguments: Sequence[str], known: set[str]) -> None:
    """Raise InputError for the first flag that is not `known`, naming the one that is meant."""
    for word in arguments:
        flag = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and flag not in known | {"--help", "--"}:
            raise InputError(f"{command} has no flag {word.partition('=')[0]}{_way_out(flag, known)} See --help.")


def parse(kind: type[Arguments], arguments: Sequence[str], command: str) -> Arguments:
    """Return a command's arguments as its dataclass; InputError for wrong ones. `--help` ends the program."""
    check_flags(command, arguments, flags_of(kind))
    with one_line(command, arguments):
        return tyro.cli(kind, args=list(arguments), prog=command)


def parse_beside(
    kind: type[Arguments], preset: Preset, arguments: Sequence[str], command: str
) -> tuple[Arguments, Preset]:
    """Return a command's arguments, and a preset with the fields changed that the other flags name; InputError for
    wrong ones."""
    check_flags(command, arguments, flags_of(kind) | flags_of(preset))
    with one_line(command, arguments):
        own, rest = tyro.cli(kind, args=list(arguments), return_unknown_args=True, prog=command)
        return own, tyro.cli(
            type(preset), default=preset, args=rest, prog=command, config=(tyro.conf.AvoidSubcommands,)
        )


def parse_process(kind: type[Arguments], module: str) -> Arguments:
    """Return the arguments of this process, which `python -m MODULE` or a `sgma` command in its place began."""
    began_as = sys.argv[0] if sys.argv[0].startswith("sgma ") else f"python -m {module}"
    return parse(kind, sys.argv[1:], began_as)


@contextlib.contextmanager
def one_line(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Turn the box in which tyro tells of wrong arguments into an InputError of one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as end:
        if end.code != 2:
            raise
        raise InputError(_said_in(box.getvalue(), command, arguments)) from None


def _said_in(box: str, command: str, arguments: Sequence[str]) -> str:
    """Return what a box of tyro's says; its parts are its message, the help of the flag, and where more stands."""
    # The frame is of lines, or of hyphens alone where standard output is no UTF-8; its first line is a title.
    lines = [re.sub(r"^│|│$", "", line).rstrip() for line in box.splitlines()[1:]]
    parts = re.split(r"^[^\w\n]{8,}$", "\n".join(lines), flags=re.MULTILINE)
    message, *others = [textwrap.dedent(part) for part in parts if part.strip()]
    more = " ".join(others)
    text = " ".join(message.split())
    if missing := re.match(r"Missing from [^:]*:", text):
        text = f"{command} needs {' and '.join(_needed(message)) or text[missing.end() :].strip()}"
    elif unknown := re.match(r"Unrecognized options: (.*)", text):
        text = f"{command} does not know what to do with {unknown[1]}"
    elif choice := re.match(r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)", text):
        text = f"{choice[2]} is {choice[1]}; give one of {choice[3].replace(chr(39), '').rstrip(',')}"
    elif lacking := re.match(r"Missing value for argument '(.*)'", text):
        text = f"{lacking[1]} has no value; give one"
    elif wrong := re.match(r"Error parsing ([\w.-]+):", text):
        form = re.search(rf"{re.escape(wrong[1])} (\S[^\n]*)", more)
        given = " ".join(_given(wrong[1], arguments))
        text = f"{wrong[1]} is {given!r}; give {form[1].removeprefix('{None}|').strip('{}') if form else 'another'}"
    return f"{text.rstrip('.')}. See --help."


def _needed(message: str) -> list[str]:
    """Return what a box calls missing: flags with their form, and what stands in place of a word without a flag."""
    needed = []
    for name, told in re.findall(r"^ {4}(\S.*)\n((?: {7,}.*\n?)*)", message + "\n", re.MULTILINE):
        meaning = re.split(r"[.;:(]", " ".join(told.split()))[0].strip()
        needed.append(name if name.startswith("-") or not meaning else f"{name} ({meaning})")
    return needed


def _given(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return the words that a flag was given."""
    for position, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            rest = list(arguments[position + 1 :])
            ends = next((i for i, w in enumerate(rest) if w.startswith("--")), len(rest))
            return [value] if equals else rest[:ends]
    return []


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
