"""Evaluation of predictions: metrics, calibration and statistical tests."""
