"""Run directories, the plan of what to train for a run, and ensembles."""
