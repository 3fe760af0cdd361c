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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
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
from kaggle_digits.training.presets import Settings, build_network, find_preset, kernels_of

FOLDS, SEEDS = 2, 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


@dataclass(frozen=True)
class Candidate:
    """Settings, and a network that is not one of the package's.

    Attributes
    ----------
    changes : dict of str to object
        Settings that differ from those of the group.
    build : callable, optional
        Builds the network instead of `build_network`.
    """

    changes: dict[str, object] = field(default_factory=dict)
    build: Callable[[Settings, UInt8], Any] | None = None


@dataclass(frozen=True)
class Group:
    """Candidates that are compared: the preset they start from, settings for all, and the candidates by name.

    The first candidate is the one that the others are compared with.
    """

    preset: str
    settings: dict[str, object]
    candidates: dict[str, Candidate]


def residual(
    settings: Settings,
    *,
    early_pooling: bool = False,
    strided: bool = False,
    valid_end: bool = False,
    activation: str = "relu",
) -> Any:
    """Build a variant of `kaggle_digits.training.models.residual_cnn`.

    Parameters
    ----------
    settings : Settings
        Widths and dropout.
    early_pooling : bool
        No residual block before the pooling, which is the most expensive one.
    strided : bool
        A convolution with stride 2 instead of the first stage and the pooling.
    valid_end : bool
        A convolution without padding, to 4x4 maps, instead of the last residual block.
    activation : str
        Instead of ReLU.
    """
    import keras
    from keras import layers

    def convolution(x: Any, maps: int, size: int = 3, stride: int = 1, padding: str = "same") -> Any:
        x = layers.Conv2D(maps, size, stride, padding, use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
        return layers.Activation(activation)(x)

    def block(x: Any, maps: int) -> Any:
        return layers.Add()([x, convolution(x, maps)])

    stem, first, second = settings.layer_widths
    pixels = keras.Input((28, 28, 1))
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(pixels))
    x = convolution(x, stem, 4, 2)
    if strided:
        x = convolution(x, second, stride=2)
    else:
        x = convolution(x, first)
        x = x if early_pooling else block(x, first)
        x = convolution(layers.MaxPooling2D()(x), second)
    x = block(x, second)
    x = convolution(x, second, padding="valid") if valid_end else block(x, second)
    x = layers.Dropout(settings.dropout)(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(10)(x))


def whitened(settings: Settings, images: UInt8) -> Any:
    """Build the package's network with whitening filters in its first layer, half of them negated.

    As in KellerJordan/cifar10-airbench: the eigenvectors of the covariance of patches, divided by the square roots
    of their eigenvalues.
    """
    model = build_network(settings)
    layer = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    kernel = np.array(layer.kernel)
    patches = np.lib.stride_tricks.sliding_window_view(images[:2000, 2:26, 2:26], (4, 4), axis=(1, 2))
    values, vectors = np.linalg.eigh(np.cov(patches[:, ::2, ::2].reshape(-1, 16).T / 255))
    filters = (vectors / np.sqrt(values + 1e-2))[:, ::-1][:, : kernel.shape[-1] // 2]
    both = np.concatenate([filters, -filters], axis=1)
    kernel[..., : both.shape[1]] = both.reshape(4, 4, 1, -1)
    layer.kernel.assign(kernel)
    return model


# An earlier version of `fast`.
EARLIER_FAST = {"widths": "32,48,96", "epochs": 8, "batch_size": 64, "preprocessing": "plain"} | {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
}
SMALL, MUON = {"widths": "24,32,64", "epochs": 10}, {"optimizer": "muon", "learning_rate": 6e-3}
GROUPS = {
    "ablation": Group(
        "fast",
        EARLIER_FAST,
        {
            "the preset": Candidate(),
            "no elastic augmentation": Candidate({"elastic": 0}),
            "no augmentation": Candidate({"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0}),
            "augmentation at 60 % of its strength at the start": Candidate({"ramp": 0.6}),
            "no hard-example mining": Candidate({"hard_rows": 0, "other_rows": 0.5}),
            "no label smoothing": Candidate({"label_smoothing": 0}),
            "no dropout": Candidate({"dropout": 0}),
            "no weight decay": Candidate({"weight_decay": 0}),
            "beta_2 of .999": Candidate({"beta_2": 0.999}),
            "constant learning rate of .001": Candidate({"schedule": "constant", "learning_rate": 1e-3}),
            "batch of 128": Candidate({"batch_size": 128}),
            "no test-time augmentation": Candidate({"tta": 1}),
        },
    ),
    "short": Group(
        "fast",
        EARLIER_FAST | {"epochs": 5},
        {
            "AdamW, 5 epochs": Candidate(),
            "learning rate .005": Candidate({"learning_rate": 5e-3}),
            "no dropout": Candidate({"dropout": 0}),
            "augmentation at 30 % of its strength at the start": Candidate({"ramp": 0.3}),
            "25 % of the rows, 8 epochs": Candidate({"epochs": 8, "hard_rows": 0.12, "other_rows": 0.13}),
            "whitening filters in the first layer": Candidate({}, whitened),
            "no residual block before the pooling, 7 epochs": Candidate(
                {"epochs": 7}, lambda settings, images: residual(settings, early_pooling=True)
            ),
            "a convolution with stride 2 instead of the first stage, 7 epochs": Candidate(
                {"epochs": 7, "widths": "48,48,96"}, lambda settings, images: residual(settings, strided=True)
            ),
            "a last convolution without padding": Candidate(
                {}, lambda settings, images: residual(settings, valid_end=True)
            ),
            "widths 24,32,64, 10 epochs": Candidate(SMALL),
            "Muon, learning rate .003": Candidate(MUON | {"learning_rate": 3e-3}),
            "Muon, learning rate .006": Candidate(MUON),
            "Muon, learning rate .012": Candidate(MUON | {"learning_rate": 12e-3}),
            "Muon, learning rate .012, batch of 128": Candidate(
                MUON | {"learning_rate": 12e-3, "batch_size": 128}
            ),
        },
    ),
    "small": Group(
        "fast",
        {"batch_size": 64, "preprocessing": "plain", **SMALL, **MUON},
        {
            "Muon, widths 24,32,64, 10 epochs": Candidate(),
            "learning rate .012": Candidate({"learning_rate": 12e-3}),
            "batch of 128, learning rate .008": Candidate({"batch_size": 128, "learning_rate": 8e-3}),
            "label smoothing .1": Candidate({"label_smoothing": 0.1}),
            "30 % of the rows, 16 epochs": Candidate({"epochs": 16, "hard_rows": 0.15, "other_rows": 0.15}),
            "no residual block before the pooling, 14 epochs": Candidate(
                {"epochs": 14}, lambda settings, images: residual(settings, early_pooling=True)
            ),
            "widths 16,24,48, 18 epochs": Candidate({"widths": "16,24,48", "epochs": 18}),
        },
    ),
    "long": Group(
        "default",
        {"batch_size": 64, "preprocessing": "plain", "widths": "32,48,96", "epochs": 17, **MUON},
        {
            "widths 32,48,96, 17 epochs": Candidate(),
            "widths 24,32,64, 40 epochs": Candidate({"widths": "24,32,64", "epochs": 40}),
            "widths 48,64,128, 9 epochs": Candidate({"widths": "48,64,128", "epochs": 9}),
            "batch of 128, learning rate .008": Candidate({"batch_size": 128, "learning_rate": 8e-3}),
        },
    ),
}


def train_candidate(group: str, name: str, seed: int, fold: int, data: Path, file: Path) -> None:
    """Train a fold of a candidate, and save the predictions of its validation rows and its cost."""
    candidate, rows = GROUPS[group].candidates[name], load_train(data)
    settings = find_preset(GROUPS[group].preset).with_settings(GROUPS[group].settings | candidate.changes).settings
    split = make_folds(rows.labels, FOLDS, seed)
    is_train = split != fold
    kernels = kernels_of(settings)
    if candidate.build is not None:
        model = candidate.build(settings, rows.images[is_train])
        kernels = layer_kernels(model)
        vars(fold_module)["build_network"] = lambda settings: model  # this process trains nothing else
    task = FoldTask(GROUPS[group].preset, settings, seed, fold, split)
    result = train_fold(task, Digits(rows.images, rows.labels, rows.images[:1]))
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
    for seeds in range(1, SEEDS + 1):
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
