"""Prediction of image files with the ensemble of a run."""
