"""Weights from and for PyTorch. PyTorch itself is imported only inside the function that reads its pickles."""
