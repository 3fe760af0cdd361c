"""How a fold is trained: the presets, the networks, the preprocessing and the augmentation of digits."""

# Not beside the presets themselves, so that the command line knows them without any import that takes time.
PRESET_NAMES = ("lenet", "fast", "default", "best")
DEFAULT_PRESET = "default"
