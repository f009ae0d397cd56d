"""The paper's ablation of fusion and sampling (arXiv 2603.02505, ISPRS), and more rows, as changes of a base preset."""
