"""The command line explains itself where it is asked, quickly, and answers a foreign flag with the one that is meant."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.demo import config as DEMO
from sgma_jax.cli import COMMANDS
from sgma_jax.commands.convert import SETS
from sgma_jax.commands.data import ShowArguments
from sgma_jax.commands.evaluate import EvaluateArguments
from sgma_jax.commands.inspect import InspectArguments
from sgma_jax.commands.predict import PredictArguments
from sgma_jax.commands.report import ReportArguments
from sgma_jax.commands.train import TrainArguments
from sgma_jax.commands.weights import ExportArguments, ImportArguments
from sgma_jax.flags import MEANT, flags_of

Command = Callable[..., tuple[int, str, str]]
ARGUMENTS = {
    "evaluate": EvaluateArguments,
    "predict": PredictArguments,
    "report": ReportArguments,
    "inspect": InspectArguments,
    "data show": ShowArguments,
    "weights import": ImportArguments,
    "weights export": ExportArguments,
}


@pytest.mark.parametrize(
    "words", ["", "--help", "--version", "data --help", "weights --help", "convert", "train --help"]
)
def test_help_goes_to_standard_output_and_loads_neither_jax_nor_another_command(words: str) -> None:
    code = (
        "import sys; from sgma_jax.cli import main; sys.argv = ['sgma', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'jax', 'rasterio', 'grain'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sgma_jax 0" if words == "--version" else "usage: sgma")


def test_the_help_of_training_explains_every_field_of_the_configuration(sgma: Command) -> None:
    status, out, _ = sgma("train", "experiments/demo.py", "--help")
    assert status == 0
    told = set(re.findall(r"--[\w.-]+", out))
    fields = {flag for flag in flags_of(DEMO) if "no-" not in flag}
    assert {f for f in fields if f not in told} <= {"--sampling.kind"}
    assert {f for f in flags_of(TrainArguments) if "no-" not in f} <= told
    assert sgma("train", "--help")[1].count("--optimizer.peak-learning-rate") >= 1


def flags_in(text: str) -> set[str]:
    """The flags in a help's groups of options, behind its usage; frames are of lines or of hyphens."""
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", re.split(r"options +(?:─|\n)", text, maxsplit=1)[1]))


@pytest.mark.parametrize("words", sorted(ARGUMENTS))
def test_the_flags_that_are_known_are_those_of_the_help(words: str, sgma: Command) -> None:
    status, out, _ = sgma(*words.split(), "--help")
    assert status == 0
    told = flags_in(out)
    assert told
    assert told - {"--help"} <= flags_of(ARGUMENTS[words])


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--batch_size", "--data.batch-size is meant"),
        ("--batch-size=4", "--data.batch-size is meant"),
        ("--lr", "--optimizer.peak-learning-rate is meant"),
        ("--epochs", "steps, not epochs"),
        ("--gpu", "JAX takes the accelerator"),
        ("--optimizer.peak-learning-rat", "is --optimizer.peak-learning-rate meant?"),
        ("--peak_learning_rate", "is --optimizer.peak-learning-rate meant?"),
        ("--wokdir", "is --workdir meant?"),
        ("--backbone", "copy one and change it"),
        ("--entirely-unlike", "has no flag --entirely-unlike. See --help."),
    ],
)
def test_a_foreign_or_mistyped_flag_is_answered_with_the_one_that_is_meant(
    flag: str, meant: str, sgma: Command, tmp_path: Path
) -> None:
    status, out, err = sgma("train", "experiments/demo.py", "--workdir", tmp_path / "run", flag, "4")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: sgma train has no flag {flag.partition('=')[0]}")
    assert meant in err
    assert not (tmp_path / "run").exists()


def test_every_command_answers_a_mistyped_flag(sgma: Command) -> None:
    for words in ARGUMENTS:
        status, _, err = sgma(*words.split(), "--outt", "x")
        assert (status, len(err.splitlines())) == (2, 1), words
        assert f"sgma {words} has no flag --outt" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("predict run --window x --out a", "--window is 'x'; give INT. See --help."),
        ("predict run --resolution 1 --out a", "--resolution is '1'; give FLOAT FLOAT. See --help."),
        ("predict run --robustness x --out a", "--robustness is 'x'; give one of none, mean, scales. See --help."),
        ("predict run", "sgma predict needs --out PATH. See --help."),
        ("predict run --out a -lr 3", "sgma predict does not know what to do with -lr, 3. See --help."),
        ("predict run --out", "--out has no value; give one. See --help."),
        ("evaluate", "sgma evaluate needs RUN (Folder of the run). See --help."),
        ("evaluate run --batch-size 4", "sgma evaluate has no flag --batch-size; --batch is meant. See --help."),
        ("train experiments/demo.py --steps 3", "sgma train needs --workdir PATH. See --help."),
        ("train experiments/demo.py --workdir run --seed x", "--seed is 'x'; give INT. See --help."),
        ("train experiments/demo.py --workdir run more", "sgma train does not know what to do with more. See --help."),
        ("train experiments/demo.py --random-seed 3", "sgma train has no flag --random-seed; --seed is meant. See --help."),
        ("convert geotiff here there --tyle 3", "sgma convert geotiff has no flag --tyle; is --tile meant? See --help."),
        ("convert geotiff here there --tile x", "--tile is 'x'; give INT. See --help."),
        ("doctor", "sgma doctor needs SOURCE (Folder or archive with the files of one set). See --help."),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line_that_says_what_is_meant(words: str, line: str, sgma: Command, tmp_path: Path) -> None:
    words = words.replace("here", str(tmp_path)).replace("there", str(tmp_path / "out"))
    assert sgma(*words.split()) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize("name", SETS)
def test_the_flags_that_are_known_of_a_converter_are_those_of_its_help(name: str, sgma: Command) -> None:
    told = flags_in(sgma("convert", name, "--help")[1])
    known = flags_of(importlib.import_module(f"data_prep.{name}").Options)
    assert "--workers" in told
    assert told - {"--help"} <= known


def test_a_converter_calls_itself_as_it_was_begun(sgma: Command) -> None:
    assert sgma("convert", "synthetic", "--help")[1].startswith("usage: sgma convert synthetic ")
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: python -m data_prep.synthetic ")


def test_only_a_switch_has_a_form_that_says_no() -> None:
    assert {"--validate", "--no-validate", "--data.no-augment"} <= flags_of(DEMO)
    assert not {"--no-seed", "--no-steps", "--data.no-crop"} & flags_of(DEMO)


def test_flags_that_others_are_translated_into_are_there() -> None:
    known = flags_of(DEMO) | flags_of(TrainArguments)
    for arguments in ARGUMENTS.values():
        known |= flags_of(arguments)
    assert set(MEANT) <= known


def test_a_word_that_is_no_command_is_answered_with_those_there_are(sgma: Command) -> None:
    for words, part in (
        (("trian",), "it has train, evaluate"),
        (("data", "look"), "there is `sgma data show`"),
        (("weights",), "import"),
    ):
        status, _, err = sgma(*words)
        assert (status, len(err.splitlines())) == (2, 1)
        assert part in err
    assert {words.partition(" ")[0] for words in COMMANDS} >= {"convert", "doctor"}


def test_converting_by_sgma_is_converting_by_the_module(sgma: Command, tmp_path: Path) -> None:
    assert (
        sgma("convert", "synthetic", tmp_path / "a", "--size", 32, "--train", 2, "--validation", 1, "--test", 1)[0] == 0
    )
    small = ["--size", "32", "--train", "2", "--validation", "1", "--test", "1"]
    subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", tmp_path / "b", *small], check=True, capture_output=True
    )
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    status, _, err = sgma("convert", "potsdamm", "x", "y")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "potsdam, vaihingen" in err
    status, _, err = sgma("doctor", tmp_path / "nothing")
    assert (status, len(err.splitlines())) == (2, 1)
