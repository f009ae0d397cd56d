"""Training: the loop, which reads top to bottom."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sgma_jax.config import TrainConfig
from sgma_jax.config_check import check
from sgma_jax.data.pipeline import evaluation_batches, open_split, training_batches
from sgma_jax.data.schema import read_manifest
from sgma_jax.data.source import Source
from sgma_jax.distributed import Preemption, compile_together, from_writer, in_turn, is_writer
from sgma_jax.errors import InputError
from sgma_jax.evaluation.evaluator import Evaluator
from sgma_jax.evaluation.metrics import score_line
from sgma_jax.interop.pretrained import read_pretrained, start_from, write_provenance
from sgma_jax.models.network import make_model
from sgma_jax.runs.checkpoints import Checkpoints, Keep, Restored, newest_step
from sgma_jax.runs.folder import fetch_copies, keep_copies, prepare_run
from sgma_jax.runs.metrics_log import FILE_NAME, MetricsLog, read_metrics
from sgma_jax.runs.provenance import log_start
from sgma_jax.runs.schema_file import write_run_schema
from sgma_jax.sharding import check_batch_size, check_rows, describe_sharding, make_mesh, put_batch, put_samples
from sgma_jax.show.progress import Progress
from sgma_jax.structs import Batch, TrainState
from sgma_jax.training.optimization import learning_rate
from sgma_jax.training.sampling import SamplingTable
from sgma_jax.training.step import make_train_step, state_initializer
from sgma_jax.training.step_reports import StepReports

PROFILE_AFTER = 3
"""[C] Steps of a session before its trace begins: the first compiles, and the next ones fill the queues."""


class _Preempted(Exception):
    """SIGTERM came while the validation split was being scored."""


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
    with Preemption() as preemption, _Watchdog(stall_seconds) as alive:
        _train(config, workdir, stop_after, resume, profile, preemption, alive)
        return not preemption.reached()


def _train(
    config: TrainConfig,
    workdir: Path,
    stop_after: int | None,
    resume: bool,
    profile: int,
    preemption: Preemption,
    alive: Callable[[], None],
) -> None:
    check(config)
    mesh = make_mesh(config.fsdp, config.space)
    check_batch_size("data.batch_size", config.data.batch_size, mesh, config.accumulate)
    check_rows("data.crop", config.data.crop, mesh, config.model.magnify)
    check_batch_size("data.evaluation_batch_size", config.data.evaluation_batch_size, mesh)
    source = open_split(config.data, "train")
    validation = open_split(config.data, "validation") if config.validate else None
    if config.space > 1 and validation:
        check_rows(
            f"the height of the tiles of {config.data.path}", validation[0].label.shape[0], mesh, config.model.magnify
        )
    news = (
        [f"{workdir} was not there: its files are those that {config.storage} has copies of."]
        if fetch_copies(workdir, config)
        else []
    )
    # A run that goes on has its weights in its checkpoint, and needs the file no more.
    pretrained = (
        read_pretrained(config.model) if config.model.pretrained and newest_step(workdir, config) is None else None
    )
    prepare_run(workdir, config)
    if is_writer():
        write_run_schema(workdir, source.schema, read_manifest(config.data.path))

    init, shapes = state_initializer(config, mesh)
    train_step = make_train_step(config, mesh, shapes)
    evaluator = Evaluator(make_model(config), config.data.classes, mesh)
    table = (
        SamplingTable(
            config.sampling, len(config.data.modalities), seed=config.seed, records=len(source), fetch=jax.device_get
        )
        if config.sampling
        else None
    )
    # All at once and in every session: within the loop each would wait for the step that is being computed.
    rates = jax.device_get(
        jax.jit(learning_rate(config.optimizer, config.steps, config.warmup_steps))(jnp.arange(config.steps))
    )
    checkpoints = Checkpoints(workdir, Keep(config.keep_checkpoints, config.keep_every, config.keep_best), config)

    restored = _restore(checkpoints, shapes, workdir, source, resume, news)
    if restored:
        start, state = restored.step, restored.state
        if table:
            table.restore(restored.sampling)
    else:
        start, state = 0, init()
        if pretrained:
            state = start_from(state, pretrained, config)
            if is_writer():
                write_provenance(workdir, pretrained)
    checkpoints.check_room(state)  # rather than after an hour
    if is_writer():
        log_start(workdir, start, f"{mesh.size} x {jax.devices()[0].device_kind}")
    stop = min(config.steps, stop_after or config.steps)
    epochs = config.steps * config.data.batch_size / len(source)
    hosts = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = training_batches(config.data, source, seed=config.seed, start=start, **hosts)

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(MetricsLog(workdir, start or None)) if is_writer() else None
        progress = stack.enter_context(Progress("training", config.steps, start=start, quiet=not is_writer()))
        tracing = stack.enter_context(_Trace(workdir / "profile", profile if is_writer() else 0))
        reports = StepReports(config, source, log, progress, restored.progress.faults if restored else {})
        stack.callback(reports.close)

        def evaluate(done: int) -> None:
            if validation is None:
                return

            def after_batch(batch: int) -> None:
                alive()
                if preemption.reached():
                    raise _Preempted

            scores = _evaluate(evaluator, state, config, validation, after_batch)
            checkpoints.scored(done, scores["average"])
            if log:
                log.log(done, "evaluation", scores)
            progress.say(
                f"step {done}: validation mIoU average {_percent(scores['average'])}, worst subset "
                f"{_percent(scores['last1'])}"
            )

        def is_due(done: int) -> bool:
            return done % config.evaluate_every == 0 or done == stop

        def save(done: int) -> None:
            reports.read_all()
            in_turn(state)
            checkpoints.save(done, state, table.state() if table else {}, reports.faults(), source.manifest_hash)
            keep_copies(workdir, config)

        progress.say(
            f"{config.name}: {len(source)} training records, {config.steps} steps ({epochs:.1f} epochs), {mesh.size} "
            f"device(s)"
        )
        progress.say(describe_sharding(shapes))
        for line in news:
            progress.say(line)
        if restored:
            progress.say(f"resuming {workdir} at step {start}")
        elif pretrained:
            progress.say(f"the encoder begins with {config.model.pretrained} ({pretrained.provenance['source']})")
        with contextlib.suppress(_Preempted):
            scores = _scores(workdir)
            for scored, average in scores.items():
                checkpoints.scored(scored, average)
            if start and is_due(start) and start not in scores:  # it was saved, and ended before it was scored
                evaluate(start)
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
                        mas = (
                            {"sampling": dict(zip(config.data.modalities, table.probabilities().tolist(), strict=True))}
                            if table
                            else {}
                        )
                        values = {"learning_rate": float(rates[step]), **mas}
                    reports.push(done, report, values)
                alive()
                tracing(done - start, report)
                preempted = preemption.reached()
                if is_due(done) or preempted:
                    save(done)
                if is_due(done) and not preempted:
                    evaluate(done)
                    reports.restart_clock()
                if preempted:
                    break
        if preemption.reached():
            progress.say("stopped by SIGTERM after a checkpoint; the same command goes on from it")
        checkpoints.wait()
    keep_copies(workdir, config)
    checkpoints.close()


def _restore(
    checkpoints: Checkpoints, shapes: TrainState, workdir: Path, source: Source, resume: bool, news: list[str]
) -> Restored | None:
    """What the newest undamaged checkpoint holds, or None for a new run; what is worth saying about it goes to
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
    """The next batch, on the host and on its way to the devices."""
    batch = next(batches)
    return batch, put_batch(batch, mesh)


def _scores(workdir: Path) -> dict[int, float | None]:
    """The average mIoU of the steps that the run has scored so far; the same in every process."""
    lines = read_metrics(workdir / FILE_NAME) if is_writer() else []
    return dict(from_writer([(line["step"], line["average"]) for line in lines if line["kind"] == "evaluation"]))


def _evaluate(
    evaluator: Evaluator, state: TrainState, config: TrainConfig, validation: Source, after_batch: Callable[[int], None]
) -> dict[str, Any]:
    """Scores on the validation split as a line of metrics.jsonl has them."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batches = evaluation_batches(config.data, validation, process=jax.process_index(), processes=jax.process_count())
    return score_line(evaluator.report(evaluator.tally(variables, batches, after_batch), "validation"))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


class _Watchdog:
    """Ends the process, with every thread's place on stderr, when it was not called for some seconds; None never
    does."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> Callable[[], None]:
        self._again()
        return self._again

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def _again(self) -> None:
        if self._seconds:  # in C, so that it works whatever the interpreter waits for
            faulthandler.dump_traceback_later(
                self._seconds, exit=True, file=2
            )  # sys.stderr of a notebook has no descriptor


class _Trace:
    """Traces some steps with jax.profiler, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps, self._running = folder, steps, False

    def __enter__(self) -> Callable[[int, Any], None]:
        return self._after_step

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def _after_step(self, done: int, report: Any) -> None:
        if self._steps and done == PROFILE_AFTER:
            self._running = True
            jax.profiler.start_trace(self._folder)
        elif self._running and done == PROFILE_AFTER + self._steps:
            jax.block_until_ready(report)
            self.__exit__()
