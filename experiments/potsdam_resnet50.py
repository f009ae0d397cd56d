"""ISPRS Potsdam with ResNet-50: the paper's second encoder.

Reproduces: the ResNet-50 row of arXiv 2603.02505 on ISPRS: Average 76.42 (mIoU %; MAGIC 66.21, IMLT 62.75).
Expected:   not run by us. The paper starts from ImageNet weights, as this preset does; from random ones
            (--model.pretrained '') expect less.
Cost:       the steps of experiments/potsdam_pvt_v2_b2.py; not timed by us.
Weights:    https://download.pytorch.org/models/resnet50-0676ba61.pth (torchvision, IMAGENET1K_V1)
Command:    sgma weights import resnet50-0676ba61.pth --encoder resnet50 --out weights/resnet50.safetensors
            python -m data_prep.potsdam SOURCE DATA
            sgma train experiments/potsdam_resnet50.py --data.path DATA --workdir RUN
            sgma evaluate RUN --split test
"""

import dataclasses

from experiments.potsdam_pvt_v2_b2 import config as pvt_v2_b2
from sgma_jax.config import ResNetConfig

config = dataclasses.replace(
    pvt_v2_b2,
    name="potsdam_resnet50",
    model=dataclasses.replace(
        pvt_v2_b2.model, encoder=ResNetConfig(variant="50"), pretrained="weights/resnet50.safetensors"
    ),
)
