"""Training: the state, the compiled step, and the loop, which reads top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sgma_jax.checkpointing import Checkpoints, newest_step, prepare_run
from sgma_jax.config import TrainConfig, check
from sgma_jax.data.pipeline import evaluation_batches, open_split, training_batches
from sgma_jax.data.source import Source
from sgma_jax.errors import InputError
from sgma_jax.evaluation import Evaluator
from sgma_jax.interop.pretrained import read_pretrained, start_from, write_provenance
from sgma_jax.losses import cross_entropy
from sgma_jax.models.sgma import initial_variables, make_model
from sgma_jax.optimization import learning_rate, optimizer
from sgma_jax.reporting.metrics_log import MetricsLog
from sgma_jax.reporting.progress import Progress
from sgma_jax.sampling import SamplingTable
from sgma_jax.sharding import batch_sharding, check_batch_size, make_mesh, put_batch, replicated, with_sharding
from sgma_jax.structs import Batch, Outputs, TrainState


class StepReport(NamedTuple):
    """What a training step tells the host; small, and replicated on every device."""

    losses: dict[str, Float[Array, ""]]
    """loss, loss_fused, loss_mas (with MAS) and gradient_norm."""
    robustness: Float[Array, "batch scale modality"]
    """As SamplingTable.update takes it, of the global batch."""
    informative: Bool[Array, "batch scale modality"]
    ids: Int[Array, " batch"]


def state_initializer(config: TrainConfig, mesh: Mesh) -> tuple[Callable[[], TrainState], Any]:
    """A compiled function that makes a fresh state in place on the devices, and the state's shapes with their shardings.

    The same seed gives the same state on any mesh.
    """
    tx = optimizer(config.optimizer, config.steps, config.warmup_steps)

    def init() -> TrainState:
        variables = initial_variables(config)
        return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], tx.init(variables["params"]))

    shapes = with_sharding(jax.eval_shape(init), mesh)
    # It runs once, and on CPU optimising its hundreds of random draws would take nearly as long as compiling the training step.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, shapes), compiler_options=quick), shapes


def robustness_report(outputs: Outputs) -> tuple[Float[Array, "batch scale modality"], Bool[Array, "batch scale modality"]]:
    """Each sample's mean robustness per scale and modality, and where it says something.

    [C] Only positions that two or more modalities see count. A share among n of M modalities is scaled by n / M, so that being one
    of few does not look robust.
    """
    means, informative = [], []
    for robustness, sees in zip(outputs.robustness, outputs.sees, strict=True):
        seeing = sees.sum(1, keepdims=True)
        counts = sees & (seeing >= 2)
        share = jnp.where(counts, robustness * seeing / sees.shape[1], 0.0)
        positions = counts.sum((2, 3))
        means.append(share.sum((2, 3)) / jnp.maximum(positions, 1))
        informative.append(positions > 0)
    return jnp.stack(means, 1), jnp.stack(informative, 1)


def make_train_step(config: TrainConfig, mesh: Mesh, shapes: TrainState) -> Callable[[TrainState, Batch], tuple[TrainState, StepReport]]:
    """The compiled step: pure, with the state donated. What it draws depends on (seed, step) alone."""
    model, tx = make_model(config), optimizer(config.optimizer, config.steps, config.warmup_steps)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    sampling, weight = config.sampling, config.optimizer.fused_loss_weight

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepReport]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss(params: Any) -> tuple[Array, tuple[dict[str, Array], Outputs, Any]]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats}, batch.images, batch.available, kept=batch.kept,
                drawn=batch.drawn if sampling else None, train=True, rngs={"dropout": key}, mutable=["batch_stats"])  # fmt: skip
            fused = cross_entropy(outputs.logits, batch.labels, outputs.answered)
            losses = {"loss_fused": fused, "loss": weight * fused}
            if sampling:
                seen = jnp.take_along_axis(batch.available, batch.drawn[:, None, None, None], 1)[:, 0]
                losses["loss_mas"] = cross_entropy(outputs.drawn_logits, batch.labels, seen)
                losses["loss"] += sampling.loss_weight * losses["loss_mas"]
            return losses["loss"], (losses, outputs, updates["batch_stats"])

        gradients, (losses, outputs, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        losses["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, params, batch_stats, opt_state), StepReport(losses, *robustness_report(outputs), batch.ids)

    return jax.jit(train_step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=(shardings, replicated(mesh)), donate_argnums=0)


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
    report = evaluator.report(evaluator.confusions(variables, batches), "validation")
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
