"""Score a run of the PyTorch baseline on every subset of its sensors; writes RUN/evaluation/<split>.json as `sgma
evaluate` does.

Command: python -m experiments.torch_baseline.evaluate RUN [--split test] [--data-path DATA]
"""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from experiments.torch_baseline.optimization import put_batch
from experiments.torch_baseline.sgma import Sgma
from sgma_jax.config import TrainConfig
from sgma_jax.data.pipeline import evaluation_batches, open_split
from sgma_jax.data.source import Source
from sgma_jax.errors import InputError, one_line_errors
from sgma_jax.evaluation.metrics import Tally, make_evaluation
from sgma_jax.flags import parse_process
from sgma_jax.modalities import subsets
from sgma_jax.runs.folder import read_config
from sgma_jax.runs.provenance import provenance
from sgma_jax.runs.results import Evaluation, result_file, write_result
from sgma_jax.show.tables import print_evaluation
from sgma_jax.structs import IGNORE

MODEL_FILE = "model.pt"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a run of the PyTorch baseline on every non-empty subset of its sensors."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    split: str = "test"
    """Split to score."""
    data_path: str | None = None
    """Where the data set lies now, if not where it was trained from."""


@torch.no_grad()
def tally(model: Sgma, config: TrainConfig, source: Source, device: torch.device) -> dict[tuple[str, ...], Tally]:
    """Count the split's pixels per subset, without confidences; absent sensors are skipped."""
    model.eval()
    classes = len(config.data.classes)
    totals = {s: Tally(np.zeros((classes, classes), np.int64), 0) for s in subsets(config.data.modalities)}
    for numpy_batch in evaluation_batches(config.data, source):
        batch = put_batch(numpy_batch, device)
        labelled = batch.labels != IGNORE
        for subset, total in totals.items():
            with torch.autocast(device.type, torch.bfloat16, enabled=config.model.dtype == "bfloat16"):
                outputs = model(batch.images, batch.available, present=subset)
            counted = labelled & outputs.answered
            cells = (batch.labels * classes + outputs.logits.argmax(1))[counted]
            counts = torch.bincount(cells, minlength=classes**2).view(classes, classes)
            totals[subset] = total.add(counts.cpu().numpy(), int(labelled.sum()))
    return totals


def evaluate_run(folder: Path, config: TrainConfig, split: str) -> Evaluation:
    """Score RUN/model.pt on a split, write the JSON, and return what it says."""
    source = open_split(config.data, split)
    path = folder / MODEL_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {MODEL_FILE}; train it first with `python -m experiments.torch_baseline.train`."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Sgma(config).to(device)
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} does not hold this network's weights ({str(error).splitlines()[0]}); train the run again."
        ) from error
    totals = tally(model, config, source, device)
    ours = provenance()
    origin = {
        **ours,
        "versions": {**ours["versions"], "torch": torch.__version__},
        "checkpoint_step": saved["step"],
        "manifest_hash": source.manifest_hash,
        "trained_on_manifest_hash": saved["manifest_hash"],
    }
    evaluation = make_evaluation(totals, split, config.data.modalities, config.data.classes)
    evaluation = dataclasses.replace(evaluation, provenance=origin)
    write_result(result_file(folder, split), evaluation)
    return evaluation


@one_line_errors
def main() -> None:
    """Evaluate what the command line says and print the table."""
    own = parse_process(Arguments, "experiments.torch_baseline.evaluate")
    config = read_config(own.run)
    if own.data_path:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=own.data_path))
    print_evaluation(evaluate_run(own.run, config, own.split))


if __name__ == "__main__":
    main()
