"""ign_grauduroi: buildings in Le Grau-du-Roi from colour, near infrared and height above ground, from random weights.

Reproduces: nothing of the paper; it shows the method on its own setting (rgb + nir + height) at the size of a fixture.
            Reference scores on the test split, mIoU: random forest 0.90 with rgb+nir+ndsm, 0.73 ndsm, 0.67 rgb, 0.37
            nir. Label and height come from the same LiDAR points, so the height is a favoured sensor: this shows
            dominance, and is no fair benchmark of accuracy.
Expected:   docs/results.md has what it reaches, and in how many minutes.
Command:    python -m data_prep.geotiff SCENE OUT --modalities rgb nir ndsm --tile 128 --overlap 64
            sgma train experiments/grau_du_roi.py --data.path OUT --workdir RUN
            sgma evaluate RUN --split test
"""

from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PvtV2Config, TrainConfig

config = TrainConfig(
    name="grau_du_roi",
    data=DataConfig(
        modalities=("rgb", "nir", "ndsm"),
        bands=(3, 1, 1),
        classes=("class_0", "class_1"),  # not building, building
        crop=48,
        batch_size=8,
        evaluation_batch_size=2,
    ),
    # Nothing is pretrained: a small encoder and head, and a learning rate far above the paper's. Small crops: the scene
    # is small, and what tells a building is near.
    model=ModelConfig(
        encoder=PvtV2Config(variant="b0", drop_path_rate=0.0), magnify=2, head_width=64, head_dropout=0.1
    ),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=500,
    warmup_steps=50,
    evaluate_every=250,
)
