"""Predictions of image files by a run's ensemble."""
