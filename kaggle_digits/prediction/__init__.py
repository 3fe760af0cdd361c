"""Prediction of image files with the ensemble of a run."""

# Here and not in `export`, so that the command line can list them without slow imports.
MODEL_FORMATS = ("onnx", "keras")
