"""Loss, optimiser and one step in PyTorch: the paper's recipe (arXiv 2603.02505, section IV-B), as sgma_jax trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.torch_baseline.sgma import Outputs
from sgma_jax.config import OptimizerConfig, TrainConfig
from sgma_jax.structs import IGNORE, Batch


class TorchBatch(NamedTuple):
    """A batch on the device; images are channels first."""

    images: Mapping[str, Tensor]
    available: Tensor
    kept: Tensor
    labels: Tensor
    drawn: Tensor


def put_batch(
    batch: Batch, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
) -> TorchBatch:
    """The pipeline's batch on a device."""
    images = {
        m: torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=memory_format).to(device)
        for m, x in batch.images.items()
    }
    available, kept, labels, drawn = (
        torch.from_numpy(np.ascontiguousarray(x)) for x in (batch.available, batch.kept, batch.labels, batch.drawn)
    )
    return TorchBatch(images, available.to(device), kept.to(device), labels.long().to(device), drawn.long().to(device))


def cross_entropy(logits: Tensor, labels: Tensor, answered: Tensor) -> Tensor:
    """Mean over the pixels that have a label and an answer; 0 where there is none."""
    labels = labels.masked_fill(~answered, IGNORE)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def losses(config: TrainConfig, outputs: Outputs, batch: TorchBatch) -> dict[str, Tensor]:
    """loss, loss_fused and, with MAS, loss_mas."""
    fused = cross_entropy(outputs.logits, batch.labels, outputs.answered)
    result = {"loss_fused": fused, "loss": config.optimizer.fused_loss_weight * fused}
    if config.sampling and outputs.drawn_logits is not None:
        seen = batch.available[torch.arange(len(batch.drawn), device=batch.drawn.device), batch.drawn]
        result["loss_mas"] = cross_entropy(outputs.drawn_logits, batch.labels, seen)
        result["loss"] = result["loss"] + config.sampling.loss_weight * result["loss_mas"]
    return result


def sampling_report(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return the mean robustness and where it says something, both [batch, scale, modality], for the sampling table.

    Only positions that two or more modalities see count; a share among n of M modalities is scaled by n / M.
    """
    means, informative = [], []
    for robustness, sees in zip(outputs.robustness, outputs.sees, strict=True):
        seeing = sees.sum(1, keepdim=True)
        counts = sees & (seeing >= 2)
        share = (robustness.detach().float() * seeing / sees.shape[1]).masked_fill(~counts, 0.0)
        positions = counts.sum((2, 3))
        means.append(share.sum((2, 3)) / positions.clamp(min=1))
        informative.append(positions > 0)
    return torch.stack(means, 1), torch.stack(informative, 1)


def learning_rate(config: OptimizerConfig, steps: int, warmup_steps: int) -> Callable[[int], float]:
    """Rate of a step: linear from `warmup_start` of the peak to the peak, then polynomial to 0 at the last step."""

    def rate(step: int) -> float:
        if step < warmup_steps:
            return config.peak_learning_rate * (config.warmup_start + (1 - config.warmup_start) * step / warmup_steps)
        left = 1 - (step - warmup_steps) / (steps - warmup_steps)
        return config.peak_learning_rate * max(left, 0.0) ** config.decay_power

    return rate


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW; weight decay applies to kernels, not to biases and norms. `fused` is PyTorch's fastest form of the same
    update."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_learning_rate, eps=config.epsilon, fused=True)


def clip_by_global_norm(parameters: list[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to a global norm of `limit` where it is larger; returns the norm before.

    Not torch's clip_grad_norm_: that one adds 1e-6 to the norm, and this is optax's rule to the bit of its formula.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, torch.where(norm < limit, 1.0, limit / norm))
    return norm


def train_step(
    config: TrainConfig,
    forward: Callable[..., Outputs],
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    batch: TorchBatch,
    rate: float,
) -> tuple[dict[str, Tensor], Outputs]:
    """One optimiser step; returns the losses with gradient_norm, and what the model said. `forward` may be a
    compiled model."""
    bfloat16 = config.model.dtype == "bfloat16"
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=bfloat16):
        outputs = forward(
            batch.images, batch.available, kept=batch.kept, drawn=batch.drawn if config.sampling else None
        )
    values = losses(config, outputs, batch)
    optimizer.zero_grad(set_to_none=True)
    values["loss"].backward()
    values["gradient_norm"] = clip_by_global_norm(parameters, config.optimizer.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return {k: v.detach() for k, v in values.items()}, outputs
