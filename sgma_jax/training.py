"""Training: the loop, which reads top to bottom."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax

from sgma_jax.checkpointing import Checkpoints, newest_step, prepare_run
from sgma_jax.config import TrainConfig, check
from sgma_jax.data.pipeline import evaluation_batches, open_split, training_batches
from sgma_jax.data.schema import read_manifest
from sgma_jax.data.source import Source
from sgma_jax.errors import InputError
from sgma_jax.evaluation import Evaluator
from sgma_jax.interop.pretrained import read_pretrained, start_from, write_provenance
from sgma_jax.models.sgma import make_model
from sgma_jax.optimization import learning_rate
from sgma_jax.reporting.metrics_log import MetricsLog
from sgma_jax.reporting.progress import Progress
from sgma_jax.reporting.provenance import log_start
from sgma_jax.reporting.run_schema import write_run_schema
from sgma_jax.sampling import SamplingTable
from sgma_jax.sharding import check_batch_size, make_mesh, put_batch
from sgma_jax.structs import TrainState
from sgma_jax.training_step import make_train_step, state_initializer


def fit(config: TrainConfig, workdir: Path, *, stop_after: int | None = None, resume: bool = True) -> None:
    """Train into `workdir`, or continue what is there from its newest checkpoint, bit for bit.

    `stop_after` ends early, after a checkpoint at that step; the schedule stays that of `config.steps`. Without `resume` a run that
    has a checkpoint is refused. Raises InputError for a configuration or data set that does not fit, before anything is written.
    """
    check(config)
    mesh = make_mesh(config.fsdp)
    check_batch_size("data.batch_size", config.data.batch_size, mesh)
    check_batch_size("data.evaluation_batch_size", config.data.evaluation_batch_size, mesh)
    source, validation = open_split(config.data, "train"), open_split(config.data, "validation")
    # A run that goes on has its weights in its checkpoint, and needs the file no more.
    pretrained = read_pretrained(config.model) if config.model.pretrained and newest_step(workdir) is None else None
    hosts = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = training_batches(config.data, source, seed=config.seed, **hosts)
    prepare_run(workdir, config)
    write_run_schema(workdir, source.schema, read_manifest(config.data.path))

    init, shapes = state_initializer(config, mesh)
    train_step = make_train_step(config, mesh, shapes)
    evaluator = Evaluator(make_model(config), config.data.classes, mesh)
    table = SamplingTable(config.sampling, len(config.data.modalities), seed=config.seed, records=len(source)) if config.sampling else None
    rate = learning_rate(config.optimizer, config.steps, config.warmup_steps)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)

    start = checkpoints.latest() or 0
    if start and not resume:
        raise InputError(f"{workdir} has a checkpoint of step {start}; leave out --no-resume to go on from it, or use another --workdir.")
    if start:
        restored = checkpoints.restore(start, shapes)
        if restored.manifest_hash != source.manifest_hash:
            raise InputError(
                f"{config.data.path} is not the data set that {workdir} was trained on (its manifest differs). "
                "Give that one with --data.path, or another --workdir."
            )
        state = restored.state
        batches.set_state(restored.iterator)
        if table:
            table.restore(restored.sampling)
    else:
        state = init()
        if pretrained:
            state = start_from(state, pretrained, config)
            write_provenance(workdir, pretrained)
    checkpoints.check_room(state)  # rather than after an hour
    if jax.process_index() == 0:
        log_start(workdir, start, f"{mesh.size} x {jax.devices()[0].device_kind}")
    stop = min(config.steps, stop_after or config.steps)
    epochs = config.steps * config.data.batch_size / len(source)

    with MetricsLog(workdir, start or None) as log, Progress("training", config.steps, start=start) as progress:
        progress.say(f"{config.name}: {len(source)} training records, {config.steps} steps ({epochs:.1f} epochs), {mesh.size} device(s)")
        if start:
            progress.say(f"resuming {workdir} at step {start}")
        elif pretrained:
            progress.say(f"the encoder begins with {config.model.pretrained} ({pretrained.provenance['source']})")
        began, counted = time.monotonic(), start
        for step in range(start, stop):
            batch = next(batches)
            if table:
                batch = batch._replace(drawn=table.draw(batch.available.any((2, 3)), batch.ids, step))
            state, report = train_step(state, put_batch(batch, mesh))
            if table:
                table.push(report.robustness, report.informative, report.ids)
            done = step + 1
            if done % config.log_every == 0 or done == stop:
                losses = {k: float(v) for k, v in report.losses.items()}  # waits for this step; the next batch is being prepared meanwhile
                _stop_if_not_finite(losses["loss"], done, checkpoints)
                speed = (done - counted) * config.data.batch_size / (time.monotonic() - began)
                mas = {"sampling": dict(zip(config.data.modalities, table.probabilities().tolist(), strict=True))} if table else {}
                log.log(done, "train", {**losses, "learning_rate": float(rate(step)), **mas, "images_per_second": speed})
                progress.update(done, loss=losses["loss"], images_per_second=speed)
                began, counted = time.monotonic(), done
            if done % config.evaluate_every == 0 or done == stop:
                # Before the iterator moves on, so that what is saved is exactly what comes next.
                evaluation = _evaluate(evaluator, state, config, validation)
                log.log(done, "evaluation", evaluation)
                progress.say(f"step {done}: validation mIoU average {_percent(evaluation['average'])}, worst subset {_percent(evaluation['last1'])}")
                checkpoints.save(done, state, table.state() if table else {}, batches.get_state(), source.manifest_hash)
                began, counted = time.monotonic(), done
        checkpoints.wait()
    checkpoints.close()


def _evaluate(evaluator: Evaluator, state: TrainState, config: TrainConfig, validation: Source) -> dict[str, Any]:
    """Scores on the validation split as a line of metrics.jsonl has them."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batches = evaluation_batches(config.data, validation, process=jax.process_index(), processes=jax.process_count())
    report = evaluator.report(evaluator.tally(variables, batches), "validation")
    miou = {"+".join(row["modalities"]): row["miou"] for row in report["subsets"]}
    last1 = report["last1"]["miou"] if report["last1"] else None
    return {"average": report["average"], "last1": last1, "miou": miou}


def _stop_if_not_finite(loss: float, step: int, checkpoints: Checkpoints) -> None:
    if not math.isfinite(loss):
        checkpoints.wait()
        raise InputError(
            f"step {step}: the loss is {loss}. The newest checkpoint is of step {checkpoints.latest() or 0}; "
            "lower optimizer.peak_learning_rate, or look for values out of range in the data set."
        )


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"
