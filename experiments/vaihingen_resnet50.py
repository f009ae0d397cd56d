"""ISPRS Vaihingen with ResNet-50.

Reproduces: nothing; arXiv 2603.02505 reports its second encoder, ResNet-50, on ISPRS only.
Expected:   not run by us. It starts from ImageNet weights; from random ones (--model.pretrained '') expect less.
Cost:       the steps of experiments/vaihingen_pvt_v2_b2.py; not timed by us.
Weights:    https://download.pytorch.org/models/resnet50-0676ba61.pth (torchvision, IMAGENET1K_V1)
Command:    sgma weights import resnet50-0676ba61.pth --encoder resnet50 --out weights/resnet50.safetensors
            python -m data_prep.vaihingen SOURCE DATA --stride 256
            sgma train experiments/vaihingen_resnet50.py --data.path DATA --workdir RUN
            sgma evaluate RUN --split test
"""

import dataclasses

from experiments.vaihingen_pvt_v2_b2 import config as pvt_v2_b2
from sgma_jax.config import ResNetConfig

config = dataclasses.replace(
    pvt_v2_b2,
    name="vaihingen_resnet50",
    model=dataclasses.replace(
        pvt_v2_b2.model, encoder=ResNetConfig(variant="50"), pretrained="weights/resnet50.safetensors"
    ),
)
