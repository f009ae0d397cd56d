"""The training of a run: step, loss, sampling table, and the loop."""
