"""The paper's ablation of fusion and sampling (arXiv 2603.02505, ISPRS), as four presets on the synthetic city."""
