"""The `sgma` command: train, evaluate, predict, report, inspect, data, weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import runpy
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from absl import logging as absl_logging

from sgma_jax.config import TrainConfig, from_json
from sgma_jax.config_check import check
from sgma_jax.errors import InputError, one_line_errors

USAGE = """usage: sgma COMMAND ...

  sgma train PRESET --workdir RUN [--data.path DATA] [--FIELD VALUE ...]   train, or continue RUN where it stopped
  sgma evaluate RUN [--split test] [--missing skip|zero] [--pictures N]    score RUN on every subset of its sensors;
                    [--corruptions] [--analysis]                           also while sensors fail in part; separability and robustness
  sgma predict RUN --sensor NAME=FILE [--sensor NAME=FILE ...] --out MAP   map a whole scene from any of RUN's sensors
  sgma report RUN [RUN ...] --out report.html [--scenes 3]                 one HTML page: scores, scenes with switches, curves, model card
  sgma inspect PRESET [--size 512] [--json]                                parameters and multiply-adds by part
  sgma data show SET [--split train] [--n 6] [--out SHEET.png]             look at a converted set: counts, statistics, a contact sheet
  sgma weights import FILE --encoder pvt_v2_b2 --out WEIGHTS               PyTorch weights for a preset's model.pretrained
  sgma weights export RUN --out FILE [--layout transformers]               RUN's model under PyTorch's names

PRESET is a Python file with `config = TrainConfig(...)`, such as experiments/demo.py, or a run's config.json. `sgma COMMAND --help` says more."""


def load_preset(path: Path) -> TrainConfig:
    """The `config` of a preset, or a run's config.json; InputError where the file has none."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such preset. Give a Python file with `config = TrainConfig(...)`, such as experiments/demo.py."
        )
    if path.suffix == ".json":
        try:
            of_a_run: TrainConfig = from_json(path.read_text(encoding="utf-8"))
        except (InputError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        return of_a_run
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise InputError(
            f"{path}: the preset cannot be run ({type(error).__name__}: {error}); correct the file."
        ) from error
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: the preset defines no `config = TrainConfig(...)`; add it.")
    return config


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a preset, or continue a run where it stopped."""

    workdir: Path
    """Folder of the run."""
    resume: bool = True
    """Continue from the newest checkpoint where the folder has one; --no-resume refuses such a folder instead."""
    stop_after: int | None = None
    """Stop after this step, with a checkpoint; the same command without it goes on."""
    profile: int = 0
    """Trace so many steps with jax.profiler into the folder's profile/, for TensorBoard or Perfetto."""
    distributed: bool = False
    """This is one of several processes, which the cluster has started: Cloud TPU, SLURM, Open MPI or Kubernetes
    (docs/pods.md)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, the same for all processes, where the cluster does not say it; with --process and
    --processes."""
    process: int | None = None
    """Number of this process, from 0."""
    processes: int | None = None
    """How many processes there are."""
    heartbeat_seconds: int = 60
    """A process that is not heard of for so long is dead, and the others end."""
    stopped_status: int = 0
    """Exit status after SIGTERM and a checkpoint; another than 0 where the scheduler would take 0 for the end of the
    run."""
    stall_seconds: int = 1800
    """A process in which no step ends for so long says where it stands and ends; 0 waits for ever."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Score a run on every non-empty subset of its sensors, from its newest checkpoint."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    split: str = "test"
    """Split to score."""
    missing: Literal["skip", "zero"] = "skip"
    """What absent sensors are: skipped, or zeros after normalisation."""
    corruptions: bool = False
    """Score all sensors also while one of them fails in part: missing blocks, noise, misregistration."""
    analysis: bool = False
    """Measure how well classes part in each sensor's features, with and without fusion, and each sensor's robustness
    per class."""
    pictures: int = 0
    """Records of the split to draw, with the prediction of every subset and the robustness maps."""
    data_path: str | None = None
    """Where the data set lies now, if not where it was trained from."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one self-contained HTML page about one or several runs that `sgma evaluate` has scored."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the runs; several stand side by side."""
    out: Path
    """File to write."""
    split: str = "test"
    """Split whose scores and scenes are shown."""
    scenes: int = 3
    """Records of the split to look at; 0 needs neither the data set nor a checkpoint."""
    data_path: str | None = None
    """Where the data set lies now, if not where the runs were trained from."""


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Count parameters and multiply-adds of a preset's network, from the compiled programs' own cost analysis."""

    preset: Annotated[Path, tyro.conf.Positional]
    """The preset."""
    size: int = 512
    """Side of the image, in pixels."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """Look at a converted set: print counts, statistics and findings, and draw some of its records."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder that a converter wrote."""
    split: str = "train"
    """Split whose records are drawn."""
    n: int = 6
    """Records to draw, evenly spread over the split."""
    out: Path | None = None
    """PNG file to write; NAME_SPLIT.png in the current folder if not given."""


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Convert an encoder's PyTorch weights into the file that model.pretrained names."""

    file: Annotated[Path, tyro.conf.Positional]
    """The weights as they were downloaded: .safetensors, or with PyTorch installed .pth, .pt or .bin."""
    encoder: str
    """What they are of: pvt_v2_b0 to pvt_v2_b5, resnet18, resnet34, resnet50, resnet101, resnet152."""
    out: Path
    """File to write."""


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a run's model, from its newest checkpoint, as a PyTorch state dict in safetensors."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    out: Path
    """File to write."""
    layout: str | None = None
    """Whose names the encoder gets: authors, timm or transformers for PVT-v2, torchvision, timm or transformers for
    ResNet."""


def train(arguments: list[str]) -> None:
    """`sgma train PRESET --workdir RUN --FIELD VALUE ...`: numbers of the preset can be changed, kinds cannot."""
    if not arguments or arguments[0].startswith("-"):
        if "--help" in arguments or "-h" in arguments:
            print(USAGE)
            return
        raise InputError(
            "sgma train needs a preset first, such as `sgma train experiments/demo.py --workdir runs/demo`."
        )
    preset = load_preset(Path(arguments[0]))
    if "--help" in arguments or "-h" in arguments:
        arguments = [*arguments, "--workdir", "RUN"]  # what is asked for is the list of fields
    own, rest = tyro.cli(TrainArguments, args=arguments[1:], return_unknown_args=True, add_help=False)
    prog = (
        f"sgma train {arguments[0]} --workdir RUN [--no-resume] [--stop-after STEP] [--profile STEPS] [--distributed]"
    )
    config = tyro.cli(TrainConfig, default=preset, args=rest, prog=prog, config=(tyro.conf.AvoidSubcommands,))
    _prepare_jax()
    from sgma_jax.distributed import end_on_error, start
    from sgma_jax.sharding import one_device_a_core
    from sgma_jax.training.fit import train as fit

    check(config)
    if own.distributed or (own.coordinator, own.process, own.processes) != (None, None, None):
        start(own.coordinator, own.process, own.processes, silence=own.heartbeat_seconds)
    else:
        one_device_a_core(config.data.batch_size // config.accumulate, config.data.evaluation_batch_size)
    session = partial(
        fit, stop_after=own.stop_after, resume=own.resume, profile=own.profile, stall_seconds=own.stall_seconds or None
    )
    if not end_on_error(lambda: session(config, own.workdir)):
        raise SystemExit(own.stopped_status)


def evaluate(arguments: list[str]) -> None:
    """`sgma evaluate RUN`: writes RUN/evaluation/<split>.json and prints the table."""
    own = tyro.cli(EvaluateArguments, args=arguments, prog="sgma evaluate")
    _prepare_jax()
    from sgma_jax.evaluation.analysis import analyse
    from sgma_jax.evaluation.corruptions import evaluate_failures
    from sgma_jax.evaluation.evaluator import evaluate as score
    from sgma_jax.runs.folder import read_config
    from sgma_jax.sharding import one_device_a_core
    from sgma_jax.show.tables import print_analysis, print_evaluation, print_failures

    config = read_config(own.run)
    one_device_a_core(config.data.evaluation_batch_size)
    if own.data_path:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=own.data_path))
    evaluation = score(own.run, config, split=own.split, missing=own.missing, pictures=own.pictures)
    print_evaluation(evaluation)
    if own.corruptions:
        print_failures(evaluate_failures(own.run, config, evaluation))
    if own.analysis:
        print_analysis(analyse(own.run, config, evaluation))


def predict(arguments: list[str]) -> None:
    """`sgma predict RUN --sensor NAME=FILE --out MAP`: writes a GeoTIFF; docs/prediction.md says it all."""
    _prepare_jax()
    from sgma_jax.prediction import command
    from sgma_jax.sharding import one_device_a_core

    one_device_a_core()  # windows are answered one by one
    command.predict(arguments)


def report(arguments: list[str]) -> None:
    """`sgma report RUN [RUN ...] --out FILE`: writes the page and says how large it is."""
    own = tyro.cli(ReportArguments, args=arguments, prog="sgma report")
    if not own.runs:
        raise InputError("sgma report needs a run: `sgma report RUN [RUN ...] --out report.html`.")
    _prepare_jax()
    from sgma_jax.report.write import write_report

    written = write_report(own.runs, own.out, split=own.split, scenes=own.scenes, data_path=own.data_path)
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB, opens in any browser, from disk")


def inspect(arguments: list[str]) -> None:
    """`sgma inspect PRESET`: prints JSON or a table."""
    own = tyro.cli(InspectArguments, args=arguments, prog="sgma inspect")
    config = load_preset(own.preset)
    check(config)
    _prepare_jax()
    from sgma_jax.models.inspection import inspect_model
    from sgma_jax.show.tables import print_inspection

    costs = inspect_model(config, own.size)
    if own.json:
        print(json.dumps(costs, indent=2))
    else:
        print_inspection(costs)


def data(arguments: list[str]) -> None:
    """`sgma data show SET`: prints counts and statistics, writes a contact sheet."""
    if not arguments or arguments[0] != "show":
        raise InputError("sgma data has one command, show: `sgma data show SET`.")
    own = tyro.cli(ShowArguments, args=arguments[1:], prog="sgma data show")
    if own.n < 1:
        raise InputError(f"--n is {own.n}; draw at least 1 record.")
    from sgma_jax.data.schema import read_manifest
    from sgma_jax.data.source import open_source
    from sgma_jax.show.pictures import contact_sheet
    from sgma_jax.show.tables import print_dataset

    manifest = read_manifest(own.folder)
    source = open_source(own.folder, own.split)
    out = own.out or Path(f"{manifest.schema.name}_{own.split}.png")
    if not out.parent.is_dir():
        raise InputError(f"--out: the folder {out.parent} does not exist. Create it, or choose another.")
    count = min(own.n, len(source))
    contact_sheet(out, [source[i * len(source) // count] for i in range(count)], source.schema)
    print_dataset(manifest, own.folder)
    print(f"{count} of {len(source)} records of {own.split}: {out}")


def weights(arguments: list[str]) -> None:
    """`sgma weights import` and `sgma weights export`: writes one file and says what is in it."""
    if arguments[:1] == ["import"]:
        given = tyro.cli(ImportArguments, args=arguments[1:], prog="sgma weights import")
        _prepare_jax()
        from sgma_jax.interop.pretrained import import_weights

        imported = import_weights(given.file, given.encoder, given.out)
        numbers = sum(a.size for a in imported.arrays.values())
        print(
            f"{given.out}: {given.encoder}, {len(imported.arrays)} arrays of {numbers:,} numbers, from the layout of "
            f"{imported.layout}"
        )
        print(f"left out: {', '.join(imported.left_out) or 'nothing'}")
    elif arguments[:1] == ["export"]:
        own = tyro.cli(ExportArguments, args=arguments[1:], prog="sgma weights export")
        _prepare_jax()
        from sgma_jax.interop.export import export_run

        exported = export_run(own.run, own.out, own.layout)
        print(
            f"{own.out}: {len(exported)} tensors of {sum(a.size for a in exported.values()):,} numbers, such as "
            f"{next(iter(exported))}"
        )
    elif set(arguments) & {"-h", "--help"}:
        print(USAGE)
    else:
        raise InputError("sgma weights does `import` or `export`; see sgma --help.")


def _prepare_jax() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless JAX is told otherwise; say nothing
    twice."""
    # What goes wrong in Orbax's background threads is raised in the foreground too; their own log of it is noise.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sgma_jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))


COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "inspect": inspect,
    "data": data,
    "weights": weights,
}


@one_line_errors
def main() -> None:
    """Run the command that the arguments name."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        return
    if sys.argv[1] not in COMMANDS:
        raise InputError(f"sgma has no command {sys.argv[1]!r}; it has {', '.join(COMMANDS)}. See sgma --help.")
    COMMANDS[sys.argv[1]](sys.argv[2:])
