"""ISPRS Vaihingen with PVT-v2-b2: the paper's recipe on a second town, where there is no blue band.

Reproduces: nothing; the paper reports no scores on Vaihingen. The recipe is that of its Potsdam experiment (section
            IV-B of arXiv 2603.02505).
Expected:   not known, and not run by us.
Cost:       12,600 steps of 16 crops of 512 x 512; not timed by us.
Weights:    pvt_v2_b2.pth of https://github.com/whai362/PVT/releases/tag/v2
Command:    sgma weights import pvt_v2_b2.pth --encoder pvt_v2_b2 --out weights/pvt_v2_b2.safetensors
            python -m data_prep.vaihingen SOURCE DATA --stride 256
            sgma train experiments/vaihingen_pvt_v2_b2.py --data.path DATA --workdir RUN
            sgma evaluate RUN --split test
"""

from sgma_jax.config import DataConfig, ModelConfig, PvtV2Config, TrainConfig

# 14 training areas, the contest's 16 less the 2 that the converter holds out for validation [C]. They are of unequal
# size, some 2500 x 2060 pixels: about 9 x 8 pieces of 512 x 512 an area, half overlapping [C]; 200 epochs, 10 of them
# warm-up, as for Potsdam.
RECORDS, BATCH = 14 * 72, 16

config = TrainConfig(
    name="vaihingen_pvt_v2_b2",
    data=DataConfig(
        modalities=("irrg", "dsm"),
        bands=(3, 1),
        classes=("impervious", "building", "low_vegetation", "tree", "car"),
        crop=512,
        batch_size=BATCH,
    ),
    model=ModelConfig(
        encoder=PvtV2Config(variant="b2", drop_path_rate=0.1),
        pretrained="weights/pvt_v2_b2.safetensors",
        dtype="bfloat16",
    ),
    steps=200 * RECORDS // BATCH,
    warmup_steps=10 * RECORDS // BATCH,
    evaluate_every=10 * RECORDS // BATCH,
)
