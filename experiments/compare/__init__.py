"""The paper's comparison, run by anyone: every method under the same budget, every subset of the sensors, intervals
over the test tiles."""
