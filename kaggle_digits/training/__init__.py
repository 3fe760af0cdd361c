"""How a fold is trained: the presets, the networks, and what happens to the digits on the way."""

# Not beside the presets themselves, so that the command line knows them without any import that takes time.
PRESET_NAMES = ("lenet", "fast", "default", "best")
DEFAULT_PRESET = "default"
