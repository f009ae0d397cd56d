"""Ablation: SGF without MAS.

Reproduces: that row of the paper's ablation, in kind: the paper's ISPRS scores are Average 49.13, Last-1 7.01 (mIoU %).
Command:    sgma train experiments/ablations/sgf_only.py --data.path runs/demo/data --workdir runs/ablation_sgf_only
"""

import dataclasses

from experiments.demo import config as demo

config = dataclasses.replace(demo, name="ablation_sgf_only", sampling=None)
