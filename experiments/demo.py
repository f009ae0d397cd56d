"""The synthetic city in minutes: what `make demo` trains.

Reproduces: nothing of the paper; it shows the whole path on data that is made on the spot.
Command:    sgma train experiments/demo.py --data.path runs/demo/data --workdir runs/demo
"""

from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PvtV2Config, TrainConfig

config = TrainConfig(
    name="demo",
    data=DataConfig(
        modalities=("rgb", "nir", "dsm", "sar"),
        bands=(3, 1, 1, 1),
        classes=("impervious", "building", "low_vegetation", "tree", "car"),
        crop=96,
        batch_size=8,
        evaluation_batch_size=8,
    ),
    model=ModelConfig(encoder=PvtV2Config(variant="b0", drop_path_rate=0.0), head_width=64, head_dropout=0.0),
    # Nothing is pretrained here, so the learning rate is far above the paper's.
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=300,
    warmup_steps=20,
    evaluate_every=150,
)
