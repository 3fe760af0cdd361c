"""What predictions are measured by: accuracy, calibration, and statistical tests."""
