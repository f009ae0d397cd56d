"""PyTorch's side of the benchmarks: the reference network and its cheap form, eager and compiled, in two memory
layouts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.timing import Subject
from experiments.benchmarks.workload import SETTLING_STEPS, TORCH_WEIGHTS, Workload, batch_of, config_of
from experiments.torch_baseline.cheap_fusion import CheapSemanticGuidedFusion
from experiments.torch_baseline.fusion import SemanticGuidedFusion
from experiments.torch_baseline.optimization import TorchBatch, learning_rate, make_optimizer, put_batch, train_step
from experiments.torch_baseline.sgma import Outputs, Sgma
from sgma_jax.config import TrainConfig
from sgma_jax.structs import IGNORE

Form = Literal["naive", "cheap"]
Mode = Literal["eager", "compile", "freeze"]


class Variant(NamedTuple):
    """One way to run the network in PyTorch."""

    mode: Mode
    """Eager, torch.compile, or torch.compile with the weights frozen into the program (inference only)."""
    form: Form
    """The paper's fusion, or the same function by the cheap algebra that sgma_jax uses."""
    channels_last: bool

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"torch {self.mode} {self.form}{' channels_last' if self.channels_last else ''}"


TRAINING_MODES: tuple[Mode, ...] = ("eager", "compile")
INFERENCE_MODES: tuple[Mode, ...] = ("eager", "compile", "freeze")
FORMS: tuple[Form, ...] = ("naive", "cheap")
TRAINING_VARIANTS = tuple(Variant(*v) for v in product(TRAINING_MODES, FORMS, (False, True)))
INFERENCE_VARIANTS = tuple(Variant(*v) for v in product(INFERENCE_MODES, FORMS, (False, True)))


def training(workload: Workload, folder: Path, variant: Variant) -> Subject:
    """One optimiser step."""
    device, config, model, batch, facts = _prepare(workload, folder, variant)
    model.train()
    parameters = list(model.parameters())
    optimizer = make_optimizer(config.optimizer, model)
    rate = learning_rate(config.optimizer, config.steps, config.warmup_steps)
    forward: Callable[..., Outputs] = torch.compile(model, dynamic=False) if variant.mode == "compile" else model
    steps = 0

    def step() -> float:
        nonlocal steps
        losses, _ = train_step(config, forward, parameters, optimizer, batch, rate(steps))
        steps += 1
        return float(losses["loss"])  # waits for the whole forward pass; _wait for the rest

    began = time.perf_counter()
    answer = [step()]
    facts["first_step_s"] = round(time.perf_counter() - began, 2)
    answer += [step() for _ in range(SETTLING_STEPS - 1)]

    def run(case: str) -> None:
        step()
        _wait(device)

    return Subject(run, facts | {"answer": answer}, lambda: _device_memory(device))


def inference(workload: Workload, folder: Path, variant: Variant) -> Subject:
    """Classes and robustness maps; a case is a subset of the sensors, its names joined by "+"."""
    device, config, model, batch, facts = _prepare(workload, folder, variant)
    model.eval()
    if variant.mode == "freeze":
        from torch._inductor import config as inductor

        inductor.freezing = True

    def forward(present: tuple[str, ...]) -> tuple[Tensor, Outputs]:
        with torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16"):
            outputs = model(batch.images, batch.available, present=present)
        return outputs.logits.argmax(1).masked_fill(~outputs.answered, IGNORE), outputs

    predict = forward if variant.mode == "eager" else torch.compile(forward, dynamic=False)

    def run(case: str) -> None:
        with torch.no_grad():
            predict(tuple(case.split("+")))
        _wait(device)

    began = time.perf_counter()
    with torch.no_grad():
        _, outputs = predict(config.data.modalities)
        answer = outputs.logits.abs().mean((0, 2, 3)).tolist()
    facts["first_call_s"] = round(time.perf_counter() - began, 2)
    run("+".join(config.data.modalities))
    return Subject(run, facts | {"answer": answer}, lambda: _device_memory(device))


def _prepare(
    workload: Workload, folder: Path, variant: Variant
) -> tuple[torch.device, TrainConfig, Sgma, TorchBatch, dict[str, Any]]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        False  # float32 means float32, as on our side
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = config_of(workload)
    memory_format = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = Sgma(config, CheapSemanticGuidedFusion if variant.form == "cheap" else SemanticGuidedFusion)
    with np.load(folder / TORCH_WEIGHTS) as weights:
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files}, strict=True)
    model.to(device).to(memory_format=memory_format)
    facts = {
        "framework": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        **variant._asdict(),
    }
    return device, config, model, put_batch(batch_of(workload), device, memory_format), facts


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None
