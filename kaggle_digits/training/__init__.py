"""Training of a fold: presets, networks, preprocessing and augmentation of digits."""

# Here and not in `presets`, so that the command line can name it without slow imports.
DEFAULT_PRESET = "default"
