"""zion30m: land cover around Zion National Park from Landsat-8 colour and near infrared, trained from random weights.

Reproduces: nothing of the paper; it shows the method on real input (reference scores on the test split, mIoU: random
            forest 0.50 with rgb+nir, 0.44 rgb, 0.31 nir; a small U-Net after 3 minutes 0.43 rgb+nir).
Expected:   docs/results.md has what it reaches, and in how many minutes.
Command:    python -m data_prep.geotiff SCENE OUT --modalities rgb nir
            sgma train experiments/zion.py --data.path OUT --workdir RUN
            sgma evaluate RUN --split test
"""

from sgma_jax.config import DataConfig, ModelConfig, OptimizerConfig, PvtV2Config, TrainConfig

config = TrainConfig(
    name="zion",
    data=DataConfig(
        modalities=("rgb", "nir"),
        bands=(3, 1),
        # barren, deciduous forest, evergreen and mixed forest, shrub and herbaceous, valley floor
        classes=("class_0", "class_1", "class_2", "class_3", "class_4"),
        crop=64,
        batch_size=8,
        evaluation_batch_size=4,
    ),
    # At 30 m a stride of 4 would be 120 m, more than many patches; nothing is pretrained, so a small encoder and head,
    # and ten times the paper's learning rate.
    model=ModelConfig(
        encoder=PvtV2Config(variant="b0", drop_path_rate=0.0), magnify=2, head_width=128, head_dropout=0.1
    ),
    optimizer=OptimizerConfig(peak_learning_rate=1e-3),
    steps=1150,
    warmup_steps=50,
    evaluate_every=575,
)
