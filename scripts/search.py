"""Search for better settings by successive halving, and print everything that was tried in one table.

    python scripts/search.py --root DIR [--group NAME ...]

The files of `rehearsal-full` are below DIR already. A candidate is trained with two folds: each network is trained
on 21,000 rows, and the errors are those on all 42,000 rows. The candidates of a group have about the same compute.
All of them are trained with the first seed, the better half also with the second, and the better half of these
with the third. Results stay below DIR, so that a second call trains only what is missing. The test rows are not
used.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits import Workspace
from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import load_train
from kaggle_digits.data.folds import make_folds
from kaggle_digits.evaluation.calibration import cross_fit
from kaggle_digits.evaluation.metrics import log_loss
from kaggle_digits.evaluation.significance import mcnemar_p
from kaggle_digits.files import replacing
from kaggle_digits.training import fold as fold_module
from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.fold import Digits, FoldTask, train_fold
from kaggle_digits.training.models import layer_kernels
from kaggle_digits.training.preprocessing import PREPROCESSINGS
from kaggle_digits.training.presets import Settings, find_preset, kernels_of

FOLDS = 2
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


@dataclass(frozen=True)
class Candidate:
    """What is different in a candidate.

    Attributes
    ----------
    changes : dict of str to object
        Settings that differ from those of the group.
    build : callable, optional
        Builds the network instead of `build_network`.
    patch : callable, optional
        Changes modules of the package. It is called in the process that trains the candidate and nothing else.
    """

    changes: dict[str, object] = field(default_factory=dict)
    build: Callable[[Settings], Any] | None = None
    patch: Callable[[], None] | None = None


@dataclass(frozen=True)
class Group:
    """Candidates that are compared: the preset they start from, settings for all, and the candidates by name.

    The first candidate is the one that the others are compared with. `seeds` is the number of seeds with which the
    best candidates are trained.
    """

    preset: str
    settings: dict[str, object]
    candidates: dict[str, Candidate]
    seeds: int = 3


def stages(
    settings: Settings, *, convolutions: Sequence[int] = (2, 2, 2), stem: bool = False, end: str = "flat"
) -> Any:
    """Build a variant of `kaggle_digits.training.models.residual_cnn`.

    Parameters
    ----------
    settings : Settings
        Widths, one per stage, and dropout.
    convolutions : sequence of int
        The number of convolutions of each stage; all but the first are residual.
    stem : bool
        A 4x4 convolution with stride 2 instead of the first stage and the pooling after it, as in an earlier
        version of the network.
    end : {"flat", "average", "pooled"}
        What the dense layer gets: the flattened feature maps, their averages, or the flattened feature maps after
        one more pooling.
    """
    import keras
    from keras import layers

    from kaggle_digits.training.batch_normalization import BatchNormalization

    def convolution(x: Any, maps: int, size: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(maps, size, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.ReLU()(BatchNormalization(momentum=0.98, epsilon=1e-5)(x))

    pixels = keras.Input((28, 28, 1))
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(pixels))
    for stage, (maps, count) in enumerate(zip(settings.layer_widths, convolutions, strict=True)):
        if stem and stage == 0:
            x = convolution(x, maps, 4, 2)
            continue
        if stage > (1 if stem else 0):
            x = layers.MaxPooling2D()(x)
        x = convolution(x, maps)
        for _ in range(count - 1):
            x = layers.Add()([x, convolution(x, maps)])
    if end == "pooled":
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x) if end == "average" else layers.Flatten()(x)
    return keras.Model(pixels, layers.Dense(10)(layers.Dropout(settings.dropout)(x)))


def skip_hardest(share: float) -> None:
    """Do not count the rows with the very lowest likelihoods as hard: some of them have a wrong label."""
    choose = fold_module.choose_rows

    def choose_without(likelihood: Float32, epoch: int, settings: Settings, rng: Any) -> Any:
        if epoch >= 3:
            likelihood = likelihood.copy()
            likelihood[np.argsort(likelihood, kind="stable")[: int(share * len(likelihood))]] = 1
        return choose(likelihood, epoch, settings, rng)

    vars(fold_module)["choose_rows"] = choose_without


def mix_up(share: float) -> None:
    """Mix each image and its target with up to this share of another one (Zhang et al., arXiv:1710.09412)."""
    import tensorflow as tf

    augment = fold_module.augment
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits
    shares: list[Any] = []

    def augment_and_mix(images: Any, settings: Settings, strength: Any, seed: Any) -> Any:
        images = augment(images, settings, strength, seed)
        shares[:] = [tf.random.stateless_uniform((tf.shape(images)[0], 1), seed + 7, 0.0, share)]
        of_other = shares[0][:, :, None, None]
        return images * (1 - of_other) + tf.roll(images, 1, 0) * of_other

    def mixed_loss(targets: Any, logits: Any) -> Any:
        return cross_entropy(targets * (1 - shares[0]) + tf.roll(targets, 1, 0) * shares[0], logits)

    vars(fold_module)["augment"] = augment_and_mix
    tf.nn.softmax_cross_entropy_with_logits = mixed_loss


SMALL = {"widths": "16,32,64", "epochs": 12, "preprocessing": "plain"}
EARLIER = partial(stages, convolutions=(1, 2, 3), stem=True)
NO_AUGMENTATION = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0}
GROUPS = {
    "network": Group(
        "fast",
        SMALL,
        {
            "the network of the presets": Candidate(),
            "an earlier network: stride 2 in the first layer": Candidate({"widths": "24,32,64"}, EARLIER),
            "1, 2 and 3 convolutions": Candidate(build=partial(stages, convolutions=(1, 2, 3))),
            "2, 2 and 3 convolutions, average pooling at the end": Candidate(
                build=partial(stages, convolutions=(2, 2, 3), end="average")
            ),
            "1, 2 and 3 convolutions, average pooling at the end": Candidate(
                build=partial(stages, convolutions=(1, 2, 3), end="average")
            ),
            "2, 2 and 3 convolutions, 3x3 maps at the end, 11 epochs": Candidate(
                {"epochs": 11}, partial(stages, convolutions=(2, 2, 3), end="pooled")
            ),
            "widths 12,32,64, 3, 2 and 2 convolutions": Candidate(
                {"widths": "12,32,64"}, partial(stages, convolutions=(3, 2, 2))
            ),
            "widths 12,24,64, 4, 3 and 2 convolutions": Candidate(
                {"widths": "12,24,64"}, partial(stages, convolutions=(4, 3, 2))
            ),
        },
    ),
    "training": Group(
        "fast",
        SMALL,
        {
            "the settings of the preset": Candidate(),
            "the hardest .2 % of the rows do not count as hard": Candidate(patch=partial(skip_hardest, 0.002)),
            "the hardest .5 % of the rows do not count as hard": Candidate(patch=partial(skip_hardest, 0.005)),
            "mixup with up to 15 % of another image": Candidate(patch=partial(mix_up, 0.15)),
            "no hard-example mining": Candidate({"hard_rows": 0, "other_rows": 0.5}),
            "AdamW, learning rate .003, batch of 64": Candidate(
                {"optimizer": "adamw", "learning_rate": 3e-3, "batch_size": 64}
            ),
            "no augmentation": Candidate(NO_AUGMENTATION),
            "no label smoothing": Candidate({"label_smoothing": 0}),
            "no dropout": Candidate({"dropout": 0}),
            "no test-time augmentation": Candidate({"tta": 1}),
        },
    ),
    "preprocessing": Group(
        "fast",
        SMALL,
        {name: Candidate({"preprocessing": name}) for name in PREPROCESSINGS},
        seeds=1,
    ),
}


def train_candidate(group: str, name: str, seed: int, fold: int, data: Path, file: Path) -> None:
    """Train a fold of a candidate, and save the predictions of its validation rows and its cost."""
    candidate, rows = GROUPS[group].candidates[name], load_train(data)
    settings = find_preset(GROUPS[group].preset).with_settings(GROUPS[group].settings | candidate.changes).settings
    split = make_folds(rows.labels, FOLDS, seed)
    is_train = split != fold
    if candidate.patch is not None:
        candidate.patch()
    if candidate.build is not None:
        vars(fold_module)["build_network"] = candidate.build
    task = FoldTask(GROUPS[group].preset, settings, seed, fold, split)
    result = train_fold(task, Digits(rows.images, rows.labels, rows.images[:1]))
    kernels = kernels_of(settings) if candidate.build is None else layer_kernels(candidate.build(settings))
    tflop = training_flops(settings, int(is_train.sum()), kernels) / 1e12
    with replacing(file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, softmax=result.val_softmax, rows=np.flatnonzero(~is_train), tflop=tflop)


@dataclass(frozen=True)
class Outcome:
    """The results of a candidate.

    Attributes
    ----------
    wrong : list of ndarray of bool, shape (42000,)
        For each seed, the rows whose digit is predicted wrongly.
    losses : list of float
        For each seed, the calibrated log-loss.
    tflop : float
        The compute of the training of a fold.
    """

    wrong: list[Any]
    losses: list[float]
    tflop: float

    @property
    def log_loss(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.losses))


def search(name: str, workspace: Workspace, folder: Path) -> dict[str, Outcome]:
    """Train a group's candidates by successive halving, and return their outcomes, best first."""
    labels, names = load_train(workspace.data).labels, list(GROUPS[name].candidates)
    outcomes: dict[str, Outcome] = {}
    for seeds in range(1, GROUPS[name].seeds + 1):
        jobs = []
        for candidate in names:
            for fold in range(FOLDS):
                file = _file(folder, name, candidate, seeds - 1, fold)
                if not file.exists():
                    jobs.append((name, candidate, seeds - 1, fold, workspace.data, file))
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), max_tasks_per_child=1) as pool:
            list(pool.map(train_candidate, *zip(*jobs, strict=True)))  # `list` raises what a process raised
        for candidate in names:
            outcomes[candidate] = read_outcome(folder, name, candidate, seeds, labels)
        names = sorted(names, key=lambda candidate: outcomes[candidate].log_loss)[: max(1, len(names) // 2)]
    return dict(sorted(outcomes.items(), key=lambda item: (-len(item[1].losses), item[1].log_loss)))


def _file(folder: Path, group: str, candidate: str, seed: int, fold: int) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in candidate)
    return folder / f"{group}.{name}.{seed}.{fold}.npz"


def read_outcome(folder: Path, group: str, candidate: str, seeds: int, labels: UInt8) -> Outcome:
    """Read the results of the first seeds of a candidate."""
    wrong, losses = [], []
    for seed in range(seeds):
        softmax: Float32 = np.zeros((len(labels), 10), np.float32)
        for fold in range(FOLDS):
            with np.load(_file(folder, group, candidate, seed, fold)) as saved:
                softmax[saved["rows"]] = saved["softmax"]
                tflop = float(saved["tflop"])
        wrong.append(softmax.argmax(1) != labels)
        losses.append(log_loss(cross_fit(softmax, labels, make_folds(labels, FOLDS, seed)), labels))
    return Outcome(wrong, losses, tflop)


def print_table(outcomes: dict[str, Outcome], reference: Outcome) -> None:
    """Print a line for each candidate, with a paired test on the seeds that it shares with the reference."""
    print("| candidate | seeds | errors | log-loss | p | TFLOP per fold |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, outcome in outcomes.items():
        pairs = list(zip(outcome.wrong, reference.wrong, strict=False))
        one, two = (np.concatenate(side) for side in zip(*pairs, strict=True))
        p = "" if outcome is reference else f"{mcnemar_p(int((one & ~two).sum()), int((two & ~one).sum())):.2g}"
        errors = np.mean([wrong.sum() for wrong in outcome.wrong])
        results = f"{len(outcome.losses)} | {errors:.0f} | {outcome.log_loss:.4f} | {p}"
        print(f"| {name} | {results} | {outcome.tflop:.1f} |")


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--group", nargs="+", default=list(GROUPS), choices=GROUPS)
    arguments = parser.parse_args()
    os.environ |= ONE_THREAD | {"KERAS_BACKEND": "tensorflow"}
    workspace = Workspace.at(arguments.root, "rehearsal-full")
    folder = arguments.root / "search"
    folder.mkdir(exist_ok=True)
    for name in arguments.group:
        outcomes = search(name, workspace, folder)
        print(f"\n{name}: compared with the candidate {next(iter(GROUPS[name].candidates))!r}\n")
        print_table(outcomes, outcomes[next(iter(GROUPS[name].candidates))])


if __name__ == "__main__":
    main()
