"""Training: the loop, which reads top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sgma_jax.config import TrainConfig
from sgma_jax.config_check import check
from sgma_jax.data.pipeline import evaluation_batches, open_split, training_batches
from sgma_jax.data.schema import read_manifest
from sgma_jax.data.source import Source
from sgma_jax.distributed import Preemption, await_turn, compile_together, from_writer, is_writer
from sgma_jax.errors import InputError
from sgma_jax.evaluation.evaluator import Evaluator
from sgma_jax.evaluation.metrics import score_line
from sgma_jax.interop.pretrained import read_pretrained, start_from, write_provenance
from sgma_jax.models.network import make_model
from sgma_jax.runs.checkpoints import Checkpoints, Keep, Restored, newest_step
from sgma_jax.runs.folder import fetch_copies, held, keep_copies, prepare_run
from sgma_jax.runs.metrics_log import MetricsLog, read_metrics
from sgma_jax.runs.names import METRICS_FILE
from sgma_jax.runs.provenance import log_start
from sgma_jax.runs.schema_file import write_run_schema
from sgma_jax.sharding import check_batch_size, check_rows, describe_sharding, make_mesh, put_batch, put_samples
from sgma_jax.show.progress import Progress
from sgma_jax.structs import Batch, TrainState
from sgma_jax.training.optimization import learning_rate
from sgma_jax.training.sampling import SamplingTable
from sgma_jax.training.step import make_train_step, state_initializer
from sgma_jax.training.step_reports import StepReports
from sgma_jax.training.watch import Trace, Watchdog


class _Preempted(Exception):
    """SIGTERM came while the validation split was being scored."""


class _Session(NamedTuple):
    """All that the set-up makes ready for the loop."""

    config: TrainConfig
    workdir: Path
    mesh: Mesh
    source: Source
    validation: Source | None
    train_step: Any
    evaluator: Evaluator
    table: SamplingTable | None
    rates: Any
    """Learning rate of every step."""
    checkpoints: Checkpoints
    start: int
    """Steps that are done already."""
    state: TrainState
    faults: dict[str, Any]
    news: list[str]
    """Lines worth telling before the first step."""

    def is_due(self, done: int, stop: int) -> bool:
        """Return whether a checkpoint and an evaluation follow the step."""
        return done % self.config.evaluate_every == 0 or done == stop


class _Voices(NamedTuple):
    """The places where a session says something."""

    log: MetricsLog | None
    progress: Progress
    tracing: Callable[[int, Any], None]
    reports: StepReports


def train(
    config: TrainConfig,
    workdir: Path,
    *,
    stop_after: int | None = None,
    resume: bool = True,
    profile: int = 0,
    stall_seconds: float | None = None,
) -> bool:
    """Train into `workdir`, or continue what is there from its newest checkpoint, bit for bit.

    `stop_after` ends early, after a checkpoint at that step; the schedule stays that of `config.steps`. Without
    `resume` a run that has a checkpoint is refused. A trace of `profile` steps goes to RUN/profile. A process in
    which nothing happens for `stall_seconds` prints where it stands and ends. SIGTERM saves and returns False. With
    several processes all call this alike, and one of them writes what is no checkpoint. Raises InputError for a
    configuration or data set that does not fit, before anything is written.
    """
    with Preemption() as preemption, Watchdog(stall_seconds) as alive, contextlib.ExitStack() as holding:
        session = _set_up(config, workdir, resume, holding)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(MetricsLog(workdir, session.start or None)) if is_writer() else None
            progress = stack.enter_context(
                Progress("training", config.steps, start=session.start, quiet=not is_writer())
            )
            tracing = stack.enter_context(Trace(workdir / "profile", profile if is_writer() else 0))
            reports = StepReports(config, session.source, log, progress, session.faults)
            stack.callback(reports.close)
            for line in session.news:
                progress.say(line)
            stop = min(config.steps, stop_after or config.steps)
            with contextlib.suppress(_Preempted):
                _loop(session, _Voices(log, progress, tracing, reports), stop, preemption, alive)
            if preemption.reached():
                progress.say("stopped by SIGTERM after a checkpoint; the same command goes on from it")
            session.checkpoints.wait()
        keep_copies(workdir, config)
        session.checkpoints.close()
        return not preemption.reached()


def _loop(session: _Session, voices: _Voices, stop: int, preemption: Preemption, alive: Callable[[], None]) -> None:
    """Train from the session's first step to `stop`, with a checkpoint and an evaluation where they are due."""
    config, workdir, mesh, table, start = session.config, session.workdir, session.mesh, session.table, session.start
    train_step, state, reports = session.train_step, session.state, voices.reports

    def after_batch(batch: int) -> None:
        alive()
        if preemption.reached():
            raise _Preempted

    scores = _scores(workdir)
    for scored, average in scores.items():
        session.checkpoints.scored(scored, average)
    if start and session.is_due(start, stop) and start not in scores:  # it was saved, and ended before it was scored
        _evaluate(session, voices, start, state, after_batch)
    hosts = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = training_batches(config.data, session.source, seed=config.seed, start=start, **hosts)
    ahead = _next(batches, mesh) if start < stop else None
    reports.restart_clock()
    for step in range(start, stop):
        assert ahead is not None
        batch, placed = ahead
        if step == start:
            train_step = compile_together(train_step, state, placed)
            alive()
        with jax.transfer_guard("disallow"):
            if table:
                drawn = table.draw(batch.available.any((2, 3)), batch.ids, step)
                placed = placed._replace(drawn=put_samples(drawn, mesh))
            reports.about_to_start()
            state, report = train_step(state, placed)
            # From here on the devices have this step to do, and the host prepares the next.
            ahead = _next(batches, mesh) if step + 1 < stop else None
            if table:
                table.push(report.robustness, report.informative, report.ids)
            done = step + 1
            values: dict[str, Any] = {}
            if done % config.log_every == 0 or done == stop:
                values = {"learning_rate": float(session.rates[step])}
                if table:
                    chances = table.probabilities().tolist()
                    values["sampling"] = dict(zip(config.data.modalities, chances, strict=True))
            reports.push(done, report, values)
        alive()
        voices.tracing(done - start, report)
        preempted = preemption.reached()
        if session.is_due(done, stop) or preempted:
            _save(session, voices, done, state)
        if preempted:
            break
        if session.is_due(done, stop):
            _evaluate(session, voices, done, state, after_batch)
            reports.restart_clock()


def _set_up(config: TrainConfig, workdir: Path, resume: bool, holding: contextlib.ExitStack) -> _Session:
    """Check everything, write the run's small files, and make or restore the state; `holding` keeps the run's lock."""
    check(config)
    mesh = make_mesh(config.fsdp, config.space)
    source, validation = _open_data(config, mesh)
    news = []
    if is_writer():
        holding.enter_context(held(workdir))
    if fetch_copies(workdir, config):
        news.append(f"{workdir} was not there: its files are those that {config.storage} has copies of.")
    # A run that goes on has its weights in its checkpoint, and needs the file no more.
    begins = bool(config.model.pretrained) and newest_step(workdir, config) is None
    pretrained = read_pretrained(config.model) if begins else None
    prepare_run(workdir, config)
    if is_writer():
        write_run_schema(workdir, source.schema, read_manifest(config.data.path))

    init, shapes = state_initializer(config, mesh)
    train_step = make_train_step(config, mesh, shapes)
    evaluator = Evaluator(make_model(config), config.data.classes, mesh)
    table = None
    if config.sampling:
        counts = {"records": len(source), "seed": config.seed}
        table = SamplingTable(config.sampling, len(config.data.modalities), fetch=jax.device_get, **counts)
    # All at once and in every session: within the loop each would wait for the step that is being computed.
    rates = jax.device_get(
        jax.jit(learning_rate(config.optimizer, config.steps, config.warmup_steps))(jnp.arange(config.steps))
    )
    checkpoints = Checkpoints(workdir, Keep(config.keep_checkpoints, config.keep_every, config.keep_best), config)
    restored = _restore(checkpoints, shapes, workdir, source, resume, news)
    start, state = (restored.step, restored.state) if restored else (0, init())
    if restored and table:
        table.restore(restored.sampling)
    if pretrained:
        state = start_from(state, pretrained, config)
        if is_writer():
            write_provenance(workdir, pretrained)
    checkpoints.check_room(state)  # rather than after an hour
    if is_writer():
        log_start(workdir, start, f"{mesh.size} x {jax.devices()[0].device_kind}")

    epochs = config.steps * config.data.batch_size / len(source)
    size = f"{len(source)} training records, {config.steps} steps ({epochs:.1f} epochs), {mesh.size} device(s)"
    lines = [f"{config.name}: {size}", describe_sharding(shapes), *news]
    if restored:
        lines.append(f"resuming {workdir} at step {start}")
    elif pretrained:
        lines.append(f"the encoder begins with {config.model.pretrained} ({pretrained.provenance['source']})")
    return _Session(
        config, workdir, mesh, source, validation, train_step, evaluator, table, rates, checkpoints,
        start, state, restored.progress.faults if restored else {}, lines,
    )  # fmt: skip


def _open_data(config: TrainConfig, mesh: Mesh) -> tuple[Source, Source | None]:
    """Return the training and the validation split; InputError where they or their batches do not fit the mesh."""
    check_batch_size("data.batch_size", config.data.batch_size, mesh, config.accumulate)
    check_rows("data.crop", config.data.crop, mesh, config.model.magnify)
    check_batch_size("data.evaluation_batch_size", config.data.evaluation_batch_size, mesh)
    source = open_split(config.data, "train")
    validation = open_split(config.data, "validation") if config.validate else None
    if config.space > 1 and validation:
        height, magnify = validation[0].label.shape[0], config.model.magnify
        check_rows(f"the height of the tiles of {config.data.path}", height, mesh, magnify)
    return source, validation


def _save(session: _Session, voices: _Voices, done: int, state: TrainState) -> None:
    voices.reports.read_all()
    await_turn(state)
    sampling = session.table.state() if session.table else {}
    session.checkpoints.save(done, state, sampling, voices.reports.faults(), session.source.manifest_hash)
    keep_copies(session.workdir, session.config)


def _evaluate(
    session: _Session, voices: _Voices, done: int, state: TrainState, after_batch: Callable[[int], None]
) -> None:
    """Score the state on the validation split, if there is one: a line of metrics.jsonl, and a mark for the
    checkpoint."""
    if session.validation is None:
        return
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    hosts = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = evaluation_batches(session.config.data, session.validation, **hosts)
    evaluator = session.evaluator
    scores = score_line(evaluator.evaluation(evaluator.tally(variables, batches, after_batch), "validation"))
    session.checkpoints.scored(done, scores["average"])
    if voices.log:
        voices.log.log(done, "evaluation", scores)
    average, worst = (_percent(scores[name]) for name in ("average", "last1"))
    voices.progress.say(f"step {done}: validation mIoU average {average}, worst subset {worst}")


def _restore(
    checkpoints: Checkpoints, shapes: TrainState, workdir: Path, source: Source, resume: bool, news: list[str]
) -> Restored | None:
    """Return the newest undamaged checkpoint, or None for a new run; what is worth saying about it goes to
    `news`."""
    newest = checkpoints.latest()
    if newest is None:
        return None
    if not resume:
        raise InputError(
            f"{workdir} has a checkpoint of step {newest}; leave out --no-resume to go on from it, or use another "
            f"--workdir."
        )
    restored, damaged = checkpoints.restore_newest(shapes)
    progress = restored.progress
    if progress.manifest_hash != source.manifest_hash:
        raise InputError(
            f"{source.path} is not the data set that {workdir} was trained on (its manifest differs). "
            "Give that one with --data.path, or another --workdir."
        )
    news += damaged
    if (progress.devices, progress.processes) != (jax.device_count(), jax.process_count()):
        news.append(
            f"saved on {progress.devices} device(s) of {progress.processes} process(es), going on on "
            f"{jax.device_count()} of {jax.process_count()}: "
            "the same batches in the same order, the same draws; sums are rounded in another order, so losses differ "
            "by about 1e-6 of their value."
        )
    return restored


def _next(batches: Any, mesh: Mesh) -> tuple[Batch, Batch]:
    """Return the next batch, on the host and on its way to the devices."""
    batch = next(batches)
    return batch, put_batch(batch, mesh)


def _scores(workdir: Path) -> dict[int, float | None]:
    """Return the average mIoU of the steps that the run has scored so far; the same in every process."""
    lines = read_metrics(workdir / METRICS_FILE) if is_writer() else []
    return dict(from_writer([(line["step"], line["average"]) for line in lines if line["kind"] == "evaluation"]))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"
