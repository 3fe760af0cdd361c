"""Runs: their directories, what is to be done for them, and the means of their softmaxes."""
