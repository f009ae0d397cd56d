"""SGMA in PyTorch, written for reading: the reference of the parity tests, the opponent of the benchmarks, and a
baseline that trains."""
