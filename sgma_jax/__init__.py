"""SGMA in JAX: semantic segmentation of remote-sensing scenes with missing sensors (arXiv 2603.02505).

The public names. Each is imported when it is first asked for: `import sgma_jax` takes no time and loads no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgma_jax.config import DataConfig as DataConfig
    from sgma_jax.config import ModelConfig as ModelConfig
    from sgma_jax.config import OptimizerConfig as OptimizerConfig
    from sgma_jax.config import SamplingConfig as SamplingConfig
    from sgma_jax.config import TrainConfig as TrainConfig
    from sgma_jax.errors import InputError as InputError
    from sgma_jax.evaluation.evaluator import evaluate as evaluate
    from sgma_jax.kinds import PvtV2Config as PvtV2Config
    from sgma_jax.kinds import ResNetConfig as ResNetConfig
    from sgma_jax.kinds import SemanticGuidedFusionConfig as SemanticGuidedFusionConfig
    from sgma_jax.models.fusions.fused import Drawn as Drawn
    from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion as SemanticGuidedFusion
    from sgma_jax.models.network import Sgma as Sgma
    from sgma_jax.prediction.arrays import predict_image as predict_image
    from sgma_jax.prediction.options import PredictOptions as PredictOptions
    from sgma_jax.prediction.predict import predict_scene as predict_scene
    from sgma_jax.runs.run import Run as Run
    from sgma_jax.training.fit import train as train
    from sgma_jax.training.sampling import SamplingTable as SamplingTable
    from sgma_jax.training.step import robustness_report as robustness_report

    __version__: str

_HOMES = {
    "config": ("DataConfig", "ModelConfig", "OptimizerConfig", "SamplingConfig", "TrainConfig"),
    "errors": ("InputError",),
    "evaluation.evaluator": ("evaluate",),
    "kinds": ("PvtV2Config", "ResNetConfig", "SemanticGuidedFusionConfig"),
    "models.fusions.fused": ("Drawn",),
    "models.fusions.semantic_guided": ("SemanticGuidedFusion",),
    "models.network": ("Sgma",),
    "prediction.arrays": ("predict_image",),
    "prediction.options": ("PredictOptions",),
    "prediction.predict": ("predict_scene",),
    "runs.run": ("Run",),
    "training.fit": ("train",),
    "training.sampling": ("SamplingTable",),
    "training.step": ("robustness_report",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("sgma_jax")
    if name not in _HOME:
        raise AttributeError(f"module 'sgma_jax' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"sgma_jax.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
