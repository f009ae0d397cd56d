"""Train the PyTorch baseline on a converted data set: the presets, input pipeline, sampling table and files of `sgma
train`.

Command: python -m experiments.torch_baseline.train PRESET --workdir RUN [--data.path DATA] [--FIELD VALUE ...]
The last weights are in RUN/model.pt, complete or absent; a run cannot be continued.
"""

from __future__ import annotations

import io
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flax.traverse_util import unflatten_dict

from experiments.torch_baseline.evaluate import MODEL_FILE, tally
from experiments.torch_baseline.optimization import (
    learning_rate,
    make_optimizer,
    put_batch,
    sampling_report,
    train_step,
)
from experiments.torch_baseline.sgma import Sgma
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import CrossEntropyConfig, TrainConfig
from sgma_jax.config_check import check
from sgma_jax.data.pipeline import open_split, training_batches
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.evaluation.metrics import make_evaluation, score_line
from sgma_jax.files import write_atomically
from sgma_jax.flags import parse_beside
from sgma_jax.interop.pretrained import Pretrained, read_pretrained
from sgma_jax.interop.torch_weights import state_dict_of
from sgma_jax.runs.folder import prepare_run
from sgma_jax.runs.metrics_log import MetricsLog
from sgma_jax.runs.names import CHECKPOINTS
from sgma_jax.show.progress import Progress
from sgma_jax.training.sampling import SamplingTable


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a preset in PyTorch."""

    workdir: Path
    """Folder of the run; it must not hold a trained model yet."""


def fit(config: TrainConfig, workdir: Path) -> None:
    """Train into `workdir`. Raises InputError for what does not fit, before anything is written."""
    check(config)
    if config.loss != CrossEntropyConfig():
        raise InputError("loss is not the plain cross-entropy, the only one that this baseline computes.")
    source = open_split(config.data, "train")
    validation = open_split(config.data, "validation") if config.validate else None
    for taken in (workdir / MODEL_FILE, workdir / CHECKPOINTS):
        if taken.exists():
            raise InputError(
                f"{taken} is of an earlier run, which this baseline cannot continue; use another --workdir."
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    batches = training_batches(config.data, source, seed=config.seed)
    model = Sgma(config).to(device)
    if config.model.pretrained:
        start_from(model, read_pretrained(config.model), config)
    prepare_run(workdir, config)

    parameters = list(model.parameters())
    optimizer = make_optimizer(config.optimizer, model)
    rate = learning_rate(config.optimizer, config.steps, config.warmup_steps)
    table = (
        SamplingTable(config.sampling, len(config.data.modalities), seed=config.seed, records=len(source))
        if config.sampling
        else None
    )

    with MetricsLog(workdir, None) as log, Progress("training", config.steps) as progress:
        progress.say(f"{config.name} in PyTorch: {len(source)} training records, {config.steps} steps on {device}")
        began, counted = time.monotonic(), 0
        for step in range(config.steps):
            batch = next(batches)
            if table:
                batch = batch._replace(drawn=table.draw(batch.available.any((2, 3)), batch.ids, step))
            model.train()
            losses, outputs = train_step(config, model, parameters, optimizer, put_batch(batch, device), rate(step))
            if table:
                robustness, informative = sampling_report(outputs)
                table.push(robustness.cpu().numpy(), informative.cpu().numpy(), batch.ids)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                values = {k: float(v) for k, v in losses.items()}
                if not math.isfinite(values["loss"]):
                    raise InputError(
                        f"step {done}: the loss is {values['loss']}; lower optimizer.peak_learning_rate, or look at "
                        f"the data set's values."
                    )
                speed = (done - counted) * config.data.batch_size / (time.monotonic() - began)
                mas = (
                    {"sampling": dict(zip(config.data.modalities, table.probabilities().tolist(), strict=True))}
                    if table
                    else {}
                )
                log.log(done, "train", {**values, "learning_rate": rate(step), **mas, "images_per_second": speed})
                progress.update(done, loss=values["loss"], images_per_second=speed)
                began, counted = time.monotonic(), done
            if done % config.evaluate_every == 0 or done == config.steps:
                if validation:
                    counted_pixels = tally(model, config, validation, device)
                    line = score_line(
                        make_evaluation(counted_pixels, "validation", config.data.modalities, config.data.classes)
                    )
                    log.log(done, "evaluation", line)
                    progress.say(
                        f"step {done}: validation mIoU average {line['average']}, worst subset {line['last1']}"
                    )
                save(workdir, {"model": model.state_dict(), "step": done, "manifest_hash": source.manifest_hash})
                began, counted = time.monotonic(), done


def start_from(model: Sgma, pretrained: Pretrained, config: TrainConfig) -> None:
    """Give the encoder imported weights, and linear stems what those expect: the identity, or the mean of other than
    three bands."""
    encoder = unflatten_dict(
        {tuple(path.replace("/", "/encoder/", 1).split("/")): array for path, array in pretrained.arrays.items()}
    )
    weights = {name: torch.from_numpy(array.copy()) for name, array in state_dict_of(encoder, config.model).items()}
    for modality, bands in zip(config.data.modalities, config.data.bands, strict=True):
        if modality in model.stem:
            weights[f"stem.{modality}.weight"] = (torch.eye(3) if bands == 3 else torch.full((3, bands), 1 / bands))[
                :, :, None, None
            ]
    if left := model.load_state_dict(weights, strict=False).unexpected_keys:
        raise ValueError(f"the PyTorch model has no {left}")


def save(workdir: Path, content: dict[str, Any]) -> None:
    """Write RUN/model.pt whole: a kill leaves the former one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(workdir / MODEL_FILE, buffer.getvalue())


@one_line_errors
def main() -> None:
    """Train what the command line says."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-"):
        if "--help" in arguments or "-h" in arguments:
            print(__doc__)
            return
        raise InputError(
            "a preset comes first, such as `python -m experiments.torch_baseline.train experiments/demo.py --workdir "
            "runs/torch`."
        )
    command = "python -m experiments.torch_baseline.train"
    own, config = parse_beside(Arguments, load_preset(Path(arguments[0])), arguments[1:], command)
    fit(config, own.workdir)


if __name__ == "__main__":
    main()
