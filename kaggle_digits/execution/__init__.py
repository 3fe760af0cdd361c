"""Where folds run: processes on this machine, and the workers of a Dask cluster."""
