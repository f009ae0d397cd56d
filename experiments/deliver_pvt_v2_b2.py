"""DELIVER (street scenes from colour, depth, events and LiDAR, 25 classes) with PVT-v2-b2.

Reproduces: the SGMA result on DELIVER of arXiv 2603.02505: Average over the 15 subsets 55.49 mIoU % (the best earlier
            method: 47.17).
Expected:   not run by us. The paper starts from ImageNet weights, as this preset does; from random ones
            (--model.pretrained '') expect less.
Cost:       199,150 steps of 16 crops of 512 x 512 with four sensors each; not timed by us.
Weights:    pvt_v2_b2.pth of https://github.com/whai362/PVT/releases/tag/v2
Command:    sgma weights import pvt_v2_b2.pth --encoder pvt_v2_b2 --out weights/pvt_v2_b2.safetensors
            python -m data_prep.deliver SOURCE DATA
            sgma train experiments/deliver_pvt_v2_b2.py --data.path DATA --workdir RUN
            sgma evaluate RUN --split test
            Where the converter found a sensor with one channel, say so: --data.bands 3 3 3 1 (of rgb, depth, event,
            lidar).
"""

from sgma_jax.config import DataConfig, ModelConfig, PvtV2Config, TrainConfig

# 3983 training frames of 1042 x 1042 pixels cut into four tiles each [C]; the paper trains 200 epochs, 10 of them
# warm-up [P].
RECORDS, BATCH = 3983 * 4, 16

config = TrainConfig(
    name="deliver_pvt_v2_b2",
    data=DataConfig(
        modalities=("rgb", "depth", "event", "lidar"),
        bands=(3, 3, 3, 3),
        classes=(
            "Building",
            "Fence",
            "Other",
            "Pedestrian",
            "Pole",
            "RoadLine",
            "Road",
            "SideWalk",
            "Vegetation",
            "Cars",
            "Wall",
            "TrafficSign",
            "Sky",
            "Ground",
            "Bridge",
            "RailTrack",
            "GroundRail",
            "TrafficLight",
            "Static",
            "Dynamic",
            "Water",
            "Terrain",
            "TwoWheeler",
            "Bus",
            "Truck",
        ),
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
