"""Search for better settings by successive halving, and print everything that was tried in one table.

    python scripts/search.py --root DIR [--group NAME ...] [--draw]

The files of `rehearsal-full` are below DIR already. A candidate is trained with two folds: each network is trained
on 21,000 rows, and the errors are those on all 42,000 rows. All candidates of a group are trained with the first
seed; if the group has more seeds, the better half also with the second, and the better half of these with the
third. Results stay below DIR, so that a second call trains only what is missing. The test rows are not used.

With `--draw`, the digits that the mean of the group `preprocessing` misreads are drawn into docs/errors.png.
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
from kaggle_digits.data.csv import Data, LabelledDigits, UnlabelledDigits, load_train
from kaggle_digits.data.folds import make_folds
from kaggle_digits.evaluation.calibration import cross_fit
from kaggle_digits.evaluation.metrics import log_loss
from kaggle_digits.evaluation.significance import mcnemar_p
from kaggle_digits.files import replacing
from kaggle_digits.training import fold as fold_module
from kaggle_digits.training.fold import FoldTask, train_fold
from kaggle_digits.training.models import convolution
from kaggle_digits.training.preprocessing import PREPROCESSINGS
from kaggle_digits.training.presets import Settings, find_preset
from kaggle_digits.training.schedule import choose_rows
from kaggle_digits.workspace import CLASSES, FULL_TRAIN_ROWS

FOLDS = 2
ERRORS = Path(__file__).parents[1] / "docs" / "errors.png"
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
    patch : callable, optional
        Changes modules of the package. It is called in the process that trains the candidate and nothing else.
    """

    changes: dict[str, object] = field(default_factory=dict)
    build: Callable[[Settings, UInt8], Any] | None = None
    patch: Callable[[], None] | None = None


@dataclass(frozen=True)
class Group:
    """Candidates that are compared: settings that differ from those of `default`, and the candidates by name.

    The first candidate is the one that the others are compared with. `seeds` is the number of seeds with which the
    best candidates are trained, and `build` builds the network of candidates that have none of their own.
    """

    settings: dict[str, object]
    candidates: dict[str, Candidate]
    seeds: int = 3
    build: Callable[[Settings, UInt8], Any] | None = None


def strided(
    settings: Settings,
    images: UInt8,
    *,
    early_pooling: bool = False,
    second_stride: bool = False,
    valid_end: bool = False,
) -> Any:
    """Build the network of earlier versions of `fast` and `default`, or a variant of it.

    A 4x4 convolution with stride 2, then 3x3 convolutions on maps of 12x12 and 6x6, three of them residual.

    Parameters
    ----------
    settings : Settings
        Widths and dropout.
    images : ndarray
        Not used.
    early_pooling : bool
        No residual block before the pooling, which is the most expensive one.
    second_stride : bool
        A convolution with stride 2 instead of the first stage and the pooling.
    valid_end : bool
        A convolution without padding, to 4x4 maps, instead of the last residual block.
    """
    import keras
    from keras import layers

    def block(x: Any, maps: int) -> Any:
        return layers.Add()([x, convolution(x, maps)])

    stem, first, second = settings.layer_widths
    pixels = keras.Input((28, 28, 1))
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(pixels))
    x = convolution(x, stem, 4, 2)
    if second_stride:
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
    """Build the network of `strided` with whitening filters in its first layer, half of them negated.

    As in KellerJordan/cifar10-airbench: the eigenvectors of the covariance of patches, divided by the square roots
    of their eigenvalues.
    """
    model = strided(settings, images)
    layer = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    kernel = np.array(layer.kernel)
    patches = np.lib.stride_tricks.sliding_window_view(images[:2000, 2:26, 2:26], (4, 4), axis=(1, 2))
    values, vectors = np.linalg.eigh(np.cov(patches[:, ::2, ::2].reshape(-1, 16).T / 255))
    filters = (vectors / np.sqrt(values + 1e-2))[:, ::-1][:, : kernel.shape[-1] // 2]
    both = np.concatenate([filters, -filters], axis=1)
    kernel[..., : both.shape[1]] = both.reshape(4, 4, 1, -1)
    layer.kernel.assign(kernel)
    return model


def stages(settings: Settings, images: UInt8, convolutions: Sequence[int] = (2, 2, 2), end: str = "flat") -> Any:
    """Build a variant of `kaggle_digits.training.models.residual_cnn`.

    Parameters
    ----------
    settings : Settings
        Widths, one per stage, and dropout.
    images : ndarray
        Not used.
    convolutions : sequence of int
        The number of convolutions of each stage; all but the first are residual.
    end : {"flat", "average", "pooled"}
        What the dense layer gets: the flattened feature maps, their averages, or the flattened feature maps after
        one more pooling.
    """
    import keras
    from keras import layers

    pixels = keras.Input((28, 28, 1))
    x = layers.Cropping2D(2)(layers.Rescaling(1 / 255)(pixels))
    for stage, (maps, count) in enumerate(zip(settings.layer_widths, convolutions, strict=True)):
        x = layers.MaxPooling2D()(x) if stage else x
        x = convolution(x, maps)
        for _ in range(count - 1):
            x = layers.Add()([x, convolution(x, maps)])
    x = layers.MaxPooling2D()(x) if end == "pooled" else x
    x = layers.GlobalAveragePooling2D()(x) if end == "average" else layers.Flatten()(x)
    return keras.Model(pixels, layers.Dense(10)(layers.Dropout(settings.dropout)(x)))


def skip_hardest(share: float) -> None:
    """From the fourth epoch on, do not count the rows with the very lowest likelihoods as hard.

    Some of them have a wrong label. They can still be drawn as one of the other rows.
    """

    def choose_without(likelihood: Float32, epoch: int, settings: Settings, rng: Any) -> Any:
        if epoch >= 3:
            likelihood = likelihood.copy()
            likelihood[np.argsort(likelihood, kind="stable")[: int(share * len(likelihood))]] = 1
        return choose_rows(likelihood, epoch, settings, rng)

    vars(fold_module)["choose_rows"] = choose_without


# The augmentation of an earlier `default`, for a larger network, and its shorter epochs.
STRONG: dict[str, object] = {"rotation": 11.5, "scale": 0.12, "shear": 0.15, "shift": 2.0, "elastic": 0.7}
STRONG |= {"hard_rows": 0.2, "other_rows": 0.2}
# An earlier version of `fast`.
EARLIER_FAST = {"widths": "32,48,96", "epochs": 8, "batch_size": 64, "preprocessing": "plain"} | {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
}
FULL_RESOLUTION = {"widths": "16,32,64", "epochs": 12}
# All that move strokes. Another thickness of the strokes, as in `bold`, was not measured with this network.
GEOMETRIC = [name for name in PREPROCESSINGS if name != "bold"]
SMALL, MUON = {"widths": "24,32,64", "epochs": 10}, {"optimizer": "muon", "learning_rate": 6e-3}
GROUPS = {
    "ablation": Group(
        EARLIER_FAST,
        {
            "the preset": Candidate(),
            "no elastic augmentation": Candidate({"elastic": 0}),
            "no augmentation": Candidate({"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0}),
            "no hard-example mining": Candidate({"hard_rows": 0, "other_rows": 0.5}),
            "no label smoothing": Candidate({"label_smoothing": 0}),
            "no dropout": Candidate({"dropout": 0}),
            "no weight decay": Candidate({"weight_decay": 0}),
            "beta_2 of .999": Candidate({"beta_2": 0.999}),
            "constant learning rate of .001": Candidate({"schedule": "constant", "learning_rate": 1e-3}),
            "batch of 128": Candidate({"batch_size": 128}),
            "no test-time augmentation": Candidate({"tta": 1}),
        },
        build=strided,
    ),
    "short": Group(
        EARLIER_FAST | {"epochs": 5},
        {
            "AdamW, 5 epochs": Candidate(),
            "learning rate .005": Candidate({"learning_rate": 5e-3}),
            "no dropout": Candidate({"dropout": 0}),
            "25 % of the rows, 8 epochs": Candidate({"epochs": 8, "hard_rows": 0.12, "other_rows": 0.13}),
            "whitening filters in the first layer": Candidate({}, whitened),
            "no residual block before the pooling, 7 epochs": Candidate(
                {"epochs": 7}, partial(strided, early_pooling=True)
            ),
            "a convolution with stride 2 instead of the first stage, 7 epochs": Candidate(
                {"epochs": 7, "widths": "48,48,96"}, partial(strided, second_stride=True)
            ),
            "a last convolution without padding": Candidate({}, partial(strided, valid_end=True)),
            "widths 24,32,64, 10 epochs": Candidate(SMALL),
            "Muon, learning rate .003": Candidate(MUON | {"learning_rate": 3e-3}),
            "Muon, learning rate .006": Candidate(MUON),
            "Muon, learning rate .012": Candidate(MUON | {"learning_rate": 12e-3}),
            "Muon, learning rate .012, batch of 128": Candidate(
                MUON | {"learning_rate": 12e-3, "batch_size": 128}
            ),
        },
        build=strided,
    ),
    "small": Group(
        {"batch_size": 64, "preprocessing": "plain", **SMALL, **MUON},
        {
            "Muon, widths 24,32,64, 10 epochs": Candidate(),
            "learning rate .012": Candidate({"learning_rate": 12e-3}),
            "batch of 128, learning rate .008": Candidate({"batch_size": 128, "learning_rate": 8e-3}),
            "label smoothing .1": Candidate({"label_smoothing": 0.1}),
            "30 % of the rows, 16 epochs": Candidate({"epochs": 16, "hard_rows": 0.15, "other_rows": 0.15}),
            "no residual block before the pooling, 14 epochs": Candidate(
                {"epochs": 14}, partial(strided, early_pooling=True)
            ),
            "widths 16,24,48, 18 epochs": Candidate({"widths": "16,24,48", "epochs": 18}),
        },
        build=strided,
    ),
    "long": Group(
        STRONG
        | {
            "widths": "32,48,96",
            "epochs": 17,
            "batch_size": 64,
            "preprocessing": "plain",
            **MUON,
        },
        {
            "widths 32,48,96, 17 epochs": Candidate(),
            "widths 24,32,64, 40 epochs": Candidate({"widths": "24,32,64", "epochs": 40}),
            "widths 48,64,128, 9 epochs": Candidate({"widths": "48,64,128", "epochs": 9}),
            "batch of 128, learning rate .008": Candidate({"batch_size": 128, "learning_rate": 8e-3}),
        },
        build=strided,
    ),
    "labels": Group(
        {"preprocessing": "plain", "widths": "24,32,64", "epochs": 12},
        {
            "the preset": Candidate(),
            "the hardest .2 % of the rows do not count as hard": Candidate(patch=partial(skip_hardest, 0.002)),
            "the hardest .5 % of the rows do not count as hard": Candidate(patch=partial(skip_hardest, 0.005)),
        },
        seeds=1,
        build=strided,
    ),
    "network": Group(
        {"preprocessing": "plain", **FULL_RESOLUTION},
        {
            "the earlier network of `fast`": Candidate({"widths": "24,32,64"}, strided),
            "24x24 maps in the first stage": Candidate(),
            "1, 2 and 3 convolutions": Candidate({}, partial(stages, convolutions=(1, 2, 3))),
            "2, 2 and 3 convolutions, average pooling at the end": Candidate(
                {}, partial(stages, convolutions=(2, 2, 3), end="average")
            ),
            "1, 2 and 3 convolutions, average pooling at the end": Candidate(
                {}, partial(stages, convolutions=(1, 2, 3), end="average")
            ),
            "2, 2 and 3 convolutions, 3x3 maps at the end, 11 epochs": Candidate(
                {"epochs": 11}, partial(stages, convolutions=(2, 2, 3), end="pooled")
            ),
            "widths 12,32,64; 3, 2 and 2 convolutions": Candidate(
                {"widths": "12,32,64"}, partial(stages, convolutions=(3, 2, 2))
            ),
            "widths 12,24,64; 4, 3 and 2 convolutions": Candidate(
                {"widths": "12,24,64"}, partial(stages, convolutions=(4, 3, 2))
            ),
        },
        seeds=1,
    ),
    "size": Group(
        STRONG | {"widths": "16,48,96", "epochs": 12, "preprocessing": "plain"},
        {
            "widths 24,48,96, 16 epochs": Candidate({"widths": "24,48,96", "epochs": 16}),
            "widths 32,64,128, 15 epochs": Candidate({"widths": "32,64,128", "epochs": 15}),
            "widths 16,32,64, 28 epochs; 2, 2 and 3 convolutions, average pooling at the end": Candidate(
                {"widths": "16,32,64", "epochs": 28}, partial(stages, convolutions=(2, 2, 3), end="average")
            ),
        },
        seeds=1,
    ),
    "preprocessing": Group(
        FULL_RESOLUTION, {name: Candidate({"preprocessing": name}) for name in GEOMETRIC}, seeds=1
    ),
}


def train_candidate(group: str, name: str, seed: int, fold: int, data: Path, file: Path) -> None:
    """Train a fold of a candidate, and save the predictions of its validation rows and its cost."""
    candidate, rows = GROUPS[group].candidates[name], load_train(data)
    settings = find_preset("default").with_settings(GROUPS[group].settings | candidate.changes).settings
    split = make_folds(rows.labels, FOLDS, seed)
    is_train = split != fold
    if candidate.patch is not None:
        candidate.patch()
    if build := candidate.build or GROUPS[group].build:
        images = rows.images[is_train]
        # Built again in the training, where the seed of the initial weights is set.
        vars(fold_module)["build_network"] = lambda settings: build(settings, images)
    task = FoldTask(settings, seed, fold, split)
    result = train_fold(task, Data(rows, UnlabelledDigits(rows.images[:1], np.ones(1, np.int64), "")))
    tflop = result.metrics["tflop"]
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


def read_softmax(folder: Path, group: str, candidate: str, seed: int) -> tuple[Float32, float]:
    """Read the predictions of a candidate for all rows, float32 [42000, 10], and the TFLOP of a fold."""
    softmax: Float32 = np.zeros((FULL_TRAIN_ROWS, CLASSES), np.float32)
    for fold in range(FOLDS):
        with np.load(_file(folder, group, candidate, seed, fold)) as saved:
            softmax[saved["rows"]] = saved["softmax"]
            tflop = float(saved["tflop"])
    return softmax, tflop


def calibrated_loss(softmax: Float32, labels: UInt8, seed: int) -> float:
    """Return the log-loss after temperature scaling, cross-fitted with the folds of a seed."""
    return log_loss(cross_fit(softmax, labels, make_folds(labels, FOLDS, seed)), labels)


def read_outcome(folder: Path, group: str, candidate: str, seeds: int, labels: UInt8) -> Outcome:
    """Read the results of the first seeds of a candidate."""
    wrong, losses = [], []
    for seed in range(seeds):
        softmax, tflop = read_softmax(folder, group, candidate, seed)
        wrong.append(softmax.argmax(1) != labels)
        losses.append(calibrated_loss(softmax, labels, seed))
    return Outcome(wrong, losses, tflop)


def print_means(folder: Path, labels: UInt8) -> Float32:
    """Print the errors of means of networks, and return the mean of all preprocessings.

    The means are those of `plain` and each other preprocessing, of all preprocessings, and, if they were trained,
    of the sizes and of all networks of the groups with a single seed.
    """
    sets = {f"plain and {name}": [("preprocessing", "plain"), ("preprocessing", name)] for name in GEOMETRIC[1:]}
    sets["all preprocessings"] = [("preprocessing", name) for name in GEOMETRIC]
    sets["all sizes"] = [("size", name) for name in GROUPS["size"].candidates]
    # The first of `labels` is also in `network`, and `plain` is the second of `network`.
    sets["all networks"] = [
        (group, name)
        for group in ("labels", "network", "size", "preprocessing")
        for name in list(GROUPS[group].candidates)[group in ("labels", "preprocessing") :]
    ]
    print("\n| networks | errors of the mean | of the mean of logarithms | log-loss of the mean |")
    print("| --- | --- | --- | --- |")
    for title, pairs in sets.items():
        if all(_file(folder, group, name, 0, FOLDS - 1).exists() for group, name in pairs):
            softmaxes = [read_softmax(folder, group, name, 0)[0] for group, name in pairs]
            mean, logarithms = np.mean(softmaxes, axis=0), np.mean(np.log(softmaxes), axis=0)
            errors, others = (int((average.argmax(1) != labels).sum()) for average in (mean, logarithms))
            loss = calibrated_loss(mean, labels, 0)
            print(f"| {title} ({len(pairs)}) | {errors} | {others} | {loss:.4f} |")
    all_preprocessings: Float32 = np.mean(
        [read_softmax(folder, "preprocessing", name, 0)[0] for name in GEOMETRIC], axis=0
    )
    return all_preprocessings


def draw_errors(softmax: Float32, digits: LabelledDigits) -> None:
    """Draw all digits that are predicted wrongly, those whose label has the lowest probability first."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns, size = 17, 0.62
    wrong = np.flatnonzero(softmax.argmax(1) != digits.labels)
    wrong = wrong[np.argsort(softmax[wrong, digits.labels[wrong]], kind="stable")]
    rows = -(-len(wrong) // columns)
    figure = Figure(figsize=(columns * size, rows * size * 1.3), layout="tight")
    axes = figure.subplots(rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, wrong, strict=False):
        axis.imshow(255 - digits.images[row], cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{digits.labels[row]} → {softmax[row].argmax()}", fontsize=8, pad=1)
    figure.savefig(ERRORS, dpi=80)
    Image.open(ERRORS).convert("L").quantize(16).save(ERRORS, optimize=True)  # a smaller file
    print(f"\nDrawn: {ERRORS}")


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
    parser.add_argument("--draw", action="store_true", help=f"draw {ERRORS.name} from the group preprocessing")
    arguments = parser.parse_args()
    if arguments.draw and "preprocessing" not in arguments.group:
        parser.error("--draw needs --group preprocessing")
    os.environ |= ONE_THREAD | {"KERAS_BACKEND": "tensorflow"}
    workspace = Workspace.at(arguments.root, "rehearsal-full")
    folder = arguments.root / "search"
    folder.mkdir(exist_ok=True)
    for name in arguments.group:
        outcomes = search(name, workspace, folder)
        print(f"\n{name}: compared with the candidate {next(iter(GROUPS[name].candidates))!r}\n")
        print_table(outcomes, outcomes[next(iter(GROUPS[name].candidates))])
        if name == "preprocessing":
            digits = load_train(workspace.data)
            mean = print_means(folder, digits.labels)
            if arguments.draw:
                draw_errors(mean, digits)


if __name__ == "__main__":
    main()
