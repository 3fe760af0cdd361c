"""What a training is asked for: preset, folds, seeds, settings, and the names of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kaggle_digits.errors import UsageError
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.own_network import NETWORK_FILE, REPLACED_SETTINGS, OwnNetwork, find_network
from kaggle_digits.training.presets import Preset, find_preset
from kaggle_digits.workspace import Workspace

MOST_SEEDS = 200
"""Maximum number of seeds. Each run keeps its lock file open, and many systems allow only 256 open files."""


@dataclass(frozen=True)
class Recipe:
    """What a training is asked for; with several seeds, for one run per seed and their mean.

    Parameters
    ----------
    preset : str
        The preset's name.
    folds : int, optional
        The number of folds, from 2 to 255. Default: that of the preset.
    seed : int
        The seed of the split and of all random numbers in training, from 0 to 2**32 - 1.
    seeds : int
        The number of runs, with the seeds `seed`, `seed` + 1, and so on, from 1 to 200.
    settings : mapping of str to object
        Settings of the preset to change. Values may be strings, as on the command line.
    network : str or callable, optional
        Your own network instead of the preset's: ``FILE.py:FUNCTION``, or a function that is defined in a
        notebook. It has no required arguments, and returns an untrained Keras model from grey values, 0 to 255,
        [b, 28, 28, 1], to logits or softmaxes, [b, 10]. Only its source is used, so it imports what it needs.
    run : str, optional
        The run's name, by default made from preset, folds, seed and settings. With several seeds it is the name of
        the mean, and the prefix of the names of the single runs.

    Raises
    ------
    UsageError
        If the preset, a setting or a number is not valid.
    """

    preset: str = DEFAULT_PRESET
    folds: int | None = None
    seed: int = 0
    seeds: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    network: OwnNetwork | Callable[[], Any] | str | None = None
    run: str | None = None

    def __post_init__(self) -> None:
        if self.own_network and (unused := [name for name in REPLACED_SETTINGS if name in self.settings]):
            raise UsageError(
                f"The setting {unused[0]} has no effect on the network {self.own_network.function}.",
                "Leave it out, and change the function instead.",
            )
        for what, number, least, most in (
            ("The number of seeds", self.seeds, 1, MOST_SEEDS),
            ("A seed", self.seed, 0, 2**32 - 1),
            ("A seed", self.seed + self.seeds - 1, 0, 2**32 - 1),
        ):
            if not least <= number <= most:
                raise UsageError(
                    f"{what} must be between {least} and {most}, got {number}.", "Choose another one."
                )
        self.chosen  # noqa: B018 (raises an error if preset or settings are not valid)

    @cached_property
    def own_network(self) -> OwnNetwork | None:
        """The network of the user, if any."""
        return None if self.network is None else find_network(self.network)

    @cached_property
    def chosen(self) -> Preset:
        """The preset with the chosen number of folds and settings."""
        changed = find_preset(self.preset).with_settings(self.settings)
        return changed if self.folds is None else replace(changed, folds=self.folds)

    @cached_property
    def name(self) -> str:
        """The name of the run; with several seeds, that of the mean."""
        numbers = f"s{self.seed}" if self.seeds == 1 else f"s{self.seed}..{self.seed + self.seeds - 1}"
        network = [self.own_network.function] if self.own_network else []
        return self.run or "-".join([*network, self.preset, f"k{self.chosen.folds}", numbers, *self.changes()])

    def of_each_seed(self) -> list[Recipe]:
        """Return the recipes of the single runs."""
        if self.seeds == 1:
            return [self]
        numbers = range(self.seed, self.seed + self.seeds)
        own, run = self.own_network, self.run
        return [replace(self, seed=n, seeds=1, network=own, run=run and f"{run}-s{n}") for n in numbers]

    def changes(self) -> list[str]:
        """Return the settings that differ from the preset's own, as ``key=value``."""
        own = find_preset(self.preset).settings.model_dump()
        return [f"{key}={value}" for key, value in self.chosen.settings.model_dump().items() if value != own[key]]

    def command(self, workspace: Workspace) -> list[str]:
        """Return the words of the command that trains the run."""
        words = ["train", "--preset", self.preset, "--folds", str(self.chosen.folds), "--seed", str(self.seed)]
        if own := self.own_network:
            # The copy of the run, because the file of the user may change, and a notebook has none.
            words += ["--network", f"{workspace.runs / self.name / NETWORK_FILE}:{own.function}"]
        for change in self.changes():
            words += ["--set", change]
        if self.run not in (None, replace(self, run=None).name):
            words += ["--run", str(self.run)]
        return workspace.words(*words)
