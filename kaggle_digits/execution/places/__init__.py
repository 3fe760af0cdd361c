"""The places where folds can be trained, one module each: see `kaggle_digits.execution.Place`."""
