"""Training of a fold: presets, networks, preprocessing and augmentation of digits."""

# Here and not in `presets`, so that the command line can list them without slow imports.
PRESET_NAMES = ("lenet", "fast", "default")
DEFAULT_PRESET = "default"
