"""Training of folds in parallel: in processes on this machine, or on the workers of a Dask cluster."""
