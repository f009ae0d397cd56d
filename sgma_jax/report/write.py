"""The report of one or several runs as one HTML file: numbers from the runs' own files, pictures from their newest
checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sgma_jax.config import DataConfig
from sgma_jax.data.pipeline import open_split
from sgma_jax.data.schema import MANIFEST, Manifest, read_manifest
from sgma_jax.data.source import Source
from sgma_jax.errors import InputError, is_disk_full
from sgma_jax.evaluation.evaluator import answer_records, evaluator_of
from sgma_jax.files import write_atomically
from sgma_jax.report.page import render_page
from sgma_jax.report.records import ReportedRun, check_comparable, labels_of, read_run
from sgma_jax.report.scenes import Answers, SceneAnswers, draw_scenes
from sgma_jax.runs.checkpoints import newest_step
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.run import Run
from sgma_jax.show.progress import Progress


def write_report(
    folders: Sequence[Path], out: Path, *, split: str = "test", scenes: int = 3, data_path: str | None = None
) -> Path:
    """Write the report of these runs to `out`, which is replaced as a whole; returns `out`.

    Scores, curves and facts are those of the runs' own files; `sgma evaluate` must have scored each on `split`.
    `scenes` records, evenly spread over the split, are answered by the newest checkpoints from every subset of the
    sensors; 0 needs neither data set nor checkpoint. `data_path` is where the data set lies now. Raises InputError,
    before anything is computed, for folders that are no runs, are not scored or cannot be compared, scores that are
    of another checkpoint or data set than the pictures would be, and an `out` that cannot be written.
    """
    _check_out(out)
    if scenes < 0:
        raise InputError(f"--scenes is {scenes}; it must be at least 0.")
    resolved = [f.resolve() for f in folders]
    if twice := next((f for f in folders if resolved.count(f.resolve()) > 1), None):
        raise InputError(f"{twice} is named twice; name each run once.")
    configs = [read_config(folder) for folder in folders]
    labels = labels_of(folders, configs)
    runs = [
        read_run(folder, config, split, label) for folder, config, label in zip(folders, configs, labels, strict=True)
    ]
    check_comparable(runs)

    note = "None were asked for."
    if scenes:
        source = _open_data(dataclasses.replace(configs[0].data, path=data_path or configs[0].data.path), split)
        shown, note = _answer_scenes(runs, source, scenes)
        runs = [dataclasses.replace(run, scenes=tuple(answers)) for run, answers in zip(runs, shown, strict=True)]
    runs = [dataclasses.replace(run, manifest=_manifest_of(run, data_path or run.config.data.path)) for run in runs]
    try:
        write_atomically(out, render_page(runs, note).encode())
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"--out: {out} cannot be written ({error.strerror or error}). Choose another place."
        ) from error
    return out


def _answer_scenes(runs: Sequence[ReportedRun], source: Source, scenes: int) -> tuple[list[list[SceneAnswers]], str]:
    """Per run the pictures of the same records, none for a run without a checkpoint; and how they were chosen."""
    _check_scenes(runs, source)
    count = min(scenes, len(source))
    numbers = [i * len(source) // count for i in range(count)]
    answering = [newest_step(run.folder) is not None for run in runs]
    if not any(answering):
        return [[] for _ in runs], "No run has a checkpoint that this program opens."
    answers: list[list[Answers]] = []
    with Progress("scenes", len(runs)) as progress:
        for done, run in enumerate(runs):
            if not answering[done]:
                answers.append([])
                continue
            loaded = Run(run.folder, run.config)
            found = answer_records(evaluator_of(loaded), loaded.restored.variables, source, run.config.data, numbers)
            answers.append([{subset: (a.classes, a.robustness) for subset, a in record.items()} for record in found])
            progress.update(done + 1)
    examples = [source[n] for n in numbers]
    drawn = draw_scenes(examples, source.schema, answers)
    fitting = max(map(len, drawn))
    note = (
        f"The scenes are {fitting} of the {len(source):,} tiles of the split, evenly spread and not chosen by their "
        f"looks."
    )
    if fitting < count:
        note = (
            f"Shown is what fits into a page: {fitting} of {count} tiles evenly spread over the {len(source):,} of "
            f"the split."
        )
    return drawn, note


def _open_data(config: DataConfig, split: str) -> Source:
    try:
        return open_split(config, split)
    except InputError as error:
        raise InputError(
            f"{error} The scenes need it: say where it lies now with --data-path, or leave them out with --scenes 0."
        ) from error


def _check_scenes(runs: Sequence[ReportedRun], source: Source) -> None:
    """InputError where pictures would be of another data set or checkpoint than the numbers beside them."""
    for run in runs:
        provenance, again = run.evaluation.provenance, f"`sgma evaluate {run.folder} --split {source.split}`"
        if provenance.get("manifest_hash") != source.manifest_hash:
            raise InputError(
                f"{run.folder} was scored on another data set than {source.path} (its manifest differs). Give that one "
                f"with --data-path, "
                f"run {again} again, or leave the scenes out with --scenes 0."
            )
        newest, scored = newest_step(run.folder), provenance.get("checkpoint_step")
        if newest is not None and newest != scored:
            raise InputError(
                f"{run.folder}: the scores of {source.split!r} are of step {scored}, the newest checkpoint's is "
                f"{newest}. Run {again} again."
            )


def _manifest_of(run: ReportedRun, path: str) -> Manifest | None:
    """The manifest of the data set that the run was scored on, if that is what lies at `path`."""
    if not path or not (Path(path) / MANIFEST).is_file():
        return None
    manifest = read_manifest(path)
    return manifest if manifest.manifest_hash == run.evaluation.provenance.get("manifest_hash") else None


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out: {out} is a folder. Name a file, such as {out / 'report.html'}.")
    if not out.parent.is_dir():
        raise InputError(f"--out: the folder {out.parent} does not exist. Create it, or choose another.")
