"""A run's model as a file that PyTorch loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sgma_jax.config import to_json
from sgma_jax.interop.torch_names import encoder_layout
from sgma_jax.interop.torch_weights import state_dict_of
from sgma_jax.interop.weight_files import write_safetensors
from sgma_jax.runs.run import Run


def export_run(run: Run | Path | str, out: Path, layout: str | None) -> dict[str, np.ndarray]:
    """Write the model of a run's newest checkpoint as a PyTorch state dict in safetensors, and return it.

    The file's metadata hold the run's configuration, step, encoder and layout. Raises InputError for a folder that
    is no run or has no checkpoint, for a layout that its encoder does not have, and for a path that cannot be
    written.
    """
    run = Run.of(run)
    config = run.config
    layout = encoder_layout(config.model.encoder, layout)
    step, variables, _ = run.restored
    state_dict = state_dict_of(variables, config.model, layout)
    # "format": "pt" is what transformers asks of a file of PyTorch's names.
    described = {
        "encoder": config.model.encoder.name,
        "layout": layout,
        "step": str(step),
        "config": to_json(config),
    }
    write_safetensors(out, state_dict, {"format": "pt", **described})
    return state_dict
