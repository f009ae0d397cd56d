"""What a method costs by the number of sensors, against the count by parts."""

from __future__ import annotations

import pytest

from experiments.compare.costs import costs_of
from sgma_jax.config import DataConfig, MeanFusionConfig, ModelConfig, PvtV2Config, TrainConfig
from sgma_jax.models.inspection import inspect_model


@pytest.mark.slow
def test_costs_rise_with_the_sensors_to_what_the_parts_add_up_to() -> None:
    config = TrainConfig(
        name="costs",
        data=DataConfig(modalities=("rgb", "dsm"), bands=(3, 1), classes=("a", "b"), crop=64),
        model=ModelConfig(encoder=PvtV2Config(variant="b0"), fusion=MeanFusionConfig(), head_width=16),
        sampling=None,
        steps=1,
    )
    one, both = costs_of(config, 64)
    parts = inspect_model(config, 64)["total"]
    assert one["parameters"] == both["parameters"] == parts["parameters"]
    assert both["multiply_adds"] == pytest.approx(parts["multiply_adds"], rel=0.05)
    assert one["multiply_adds"] < both["multiply_adds"] < 2 * one["multiply_adds"]
    assert 4 * one["parameters"] < one["peak_bytes"] <= both["peak_bytes"]
    assert min(one["images_per_second"], both["images_per_second"]) > 0
