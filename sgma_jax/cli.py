"""The `sgma` command: finds the subcommand that is named, and loads no other."""

from __future__ import annotations

import importlib
import sys

from sgma_jax.errors import InputError, one_line_errors

COMMANDS = {
    "train": ("train.train", "PRESET --workdir RUN [--data.path DATA] [--FIELD VALUE ...]", "train, or go on"),
    "evaluate": ("evaluate.evaluate", "RUN [--split test] [--corruptions] ...", "score every subset of the sensors"),
    "predict": ("predict.predict", "RUN --sensor NAME=FILE ... --out MAP", "map a scene from any of RUN's sensors"),
    "report": ("report.report", "RUN [RUN ...] --out report.html", "one HTML page: scores, scenes, curves, model card"),
    "inspect": ("inspect.inspect", "PRESET [--size 512] [--json]", "parameters and multiply-adds by part"),
    "convert": ("convert.convert", "SET SOURCE OUT", "a public set or your own rasters into a data set"),
    "doctor": ("convert.doctor", "SOURCE", "look at a public set before it is converted"),
    "data show": ("data.show", "DATA [--split train] [--n 6]", "look at a data set: counts, statistics, pictures"),
    "weights import": ("weights.import_", "FILE --encoder NAME --out WEIGHTS", "PyTorch weights for model.pretrained"),
    "weights export": ("weights.export", "RUN --out FILE [--layout LAYOUT]", "RUN's model under PyTorch's names"),
}
"""Words of a command -> its function in `sgma_jax.commands`, its arguments, and what it does."""
END = """
PRESET is a Python file with `config = TrainConfig(...)`, such as experiments/demo.py, or a run's config.json.
`sgma COMMAND --help` says more; `sgma --version` says which version this is."""


def usage(group: str = "") -> str:
    """Return the help of `sgma`, or of a group of its commands such as "weights"."""
    lines = [f"usage: sgma {group or 'COMMAND'} ...", ""]
    for words, (_, arguments, what) in COMMANDS.items():
        if words.startswith(group):
            lines += [f"  sgma {words} {arguments}", f"      {what}"]
    return "\n".join([*lines, END])


@one_line_errors
def main() -> None:
    """Run the command that the arguments name."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from sgma_jax import __version__

        print(f"sgma_jax {__version__}")
        return
    for count in (1, 2):
        words = " ".join(arguments[:count])
        if words in COMMANDS:
            module, _, function = COMMANDS[words][0].partition(".")
            getattr(importlib.import_module(f"sgma_jax.commands.{module}"), function)(arguments[count:])
            return
    if group := [words for words in COMMANDS if words.startswith(f"{arguments[0]} ")]:
        if {"-h", "--help"} & set(arguments):
            print(usage(arguments[0]))
            return
        known = " and ".join(f"`sgma {words}`" for words in group)
        raise InputError(f"there is {known}, and no other command of sgma {arguments[0]}; see its --help.")
    names = ", ".join(dict.fromkeys(words.partition(" ")[0] for words in COMMANDS))
    raise InputError(f"sgma has no command {arguments[0]!r}; it has {names}. See sgma --help.")
