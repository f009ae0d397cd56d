"""A run's model as a file that PyTorch loads."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from sgma_jax.config import to_json
from sgma_jax.interop.torch_names import encoder_layout
from sgma_jax.interop.torch_weights import state_dict_of
from sgma_jax.interop.weight_files import write_safetensors
from sgma_jax.models.network import initial_variables
from sgma_jax.runs.checkpoints import restore_newest_model
from sgma_jax.runs.folder import read_config
from sgma_jax.sharding import make_mesh, with_sharding


def export_run(folder: Path, out: Path, layout: str | None) -> dict[str, np.ndarray]:
    """Write the model of a run's newest checkpoint as a PyTorch state dict in safetensors, and return it.

    The file's metadata hold the run's configuration, step, encoder and layout. Raises InputError for a folder that
    is no run or has no checkpoint, for a layout that its encoder does not have, and for a path that cannot be
    written.
    """
    config = read_config(folder)
    layout = encoder_layout(config.model.encoder, layout)
    shapes = with_sharding(jax.eval_shape(lambda: initial_variables(config)), make_mesh(1))
    step, variables, _ = restore_newest_model(folder, shapes)
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
