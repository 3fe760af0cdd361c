"""Benchmark the speed and memory of the package on this machine, and compare it with alternatives.

    python scripts/benchmark.py [--quick] [--mnist-dir DIR] [--only PART ...]

The benchmarks use `rehearsal-full` if MNIST's IDX files are available (--mnist-dir), and `rehearsal` otherwise or
with --quick. To reduce the effect of noise, alternatives are timed alternately, and each result is a median with
its range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits import Workspace, export, train
from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import Data, LabelledDigits, UnlabelledDigits, load_test, load_train
from kaggle_digits.prediction.predict import Classifier
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.compute import image_flops
from kaggle_digits.training.fold import FoldTask, train_fold
from kaggle_digits.training.presets import PRESETS, Settings, build_network, find_preset
from kaggle_digits.training.schedule import plan_steps
from kaggle_digits.workspace import FULL_TRAIN_ROWS, TEST_CSV, TRAIN_CSV

if TYPE_CHECKING:
    import keras

BIN = Path(sys.executable).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def memory(root: str, competition: str, preset: str) -> dict[str, float]:
    """Train two folds for one epoch; return the peak memory in bytes of this process and of its largest worker."""
    import resource

    train(Workspace.at(root, competition), preset=preset, folds=2, settings={"epochs": 1}, run="memory")
    unit = 1 if sys.platform == "darwin" else 1024
    processes = {"parent": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: unit * resource.getrusage(who).ru_maxrss for name, who in processes.items()}


def throughput(folder: str, name: str, rows: str) -> dict[str, float | None]:
    """Train the network of a preset as a worker does, or that of a peer; return its speed and that of the core.

    Returns
    -------
    dict
        `speed` in images per second; `flops`, the FLOPs of one image in a forward and a backward pass; `peak`, the
        FLOPs per second of a matrix product; and `augmentation`, its share of the time of a step, or None if
        the preset has no augmentation.
    """
    train_set, count = load_train(Path(folder)), int(rows)
    images, labels = train_set.images[:count], train_set.labels[:count]
    before = matrix_product()
    measure = partial(measure_peer, PEERS[name]) if name in PEERS else partial(measure_preset, name)
    flops, speed, augmentation = measure(images, labels)
    return {"speed": speed, "flops": flops, "peak": max(before, matrix_product()), "augmentation": augmentation}


def matrix_product() -> float:
    """Return the speed of a product of large matrices, in floating-point operations per second."""
    import tensorflow as tf

    a = tf.random.normal((2048, 2048))
    product = tf.function(lambda a: a @ a)
    product(a)
    started = time.perf_counter()
    for _ in range(4):
        b = product(a)
    b.numpy()
    return 4 * 2 * 2048**3 / (time.perf_counter() - started)


def measure_preset(name: str, images: UInt8, labels: UInt8) -> tuple[float, float, float | None]:
    """Return the FLOPs of an image, the images per second, and the augmentation's share of a step of a preset."""
    recipe = find_preset(name).with_settings({"epochs": 3, "hard_rows": 0, "other_rows": 1})
    folds = np.r_[np.zeros(20, np.uint8), np.ones(len(images) - 20, np.uint8)]
    task = FoldTask(recipe.settings, 0, 0, folds)
    data = Data(LabelledDigits(images, labels, ""), UnlabelledDigits(images[:20], np.arange(20), ""))
    speed = train_fold(task, data).history[-1]["images_per_second"]
    share = augmentation_seconds(images[:64], recipe.settings) * speed / 64 if recipe.settings.augments else None
    return image_flops(build_network(recipe.settings)), speed, share


def augmentation_seconds(images: UInt8, settings: Settings) -> float:
    """Return the time to augment a batch, in seconds."""
    import tensorflow as tf

    from kaggle_digits.training.augmentation import augment

    batch = tf.constant(images[..., None], tf.float32)
    deform = tf.function(lambda seed: augment(batch, settings, seed))
    deform(tf.constant([0, 0]))
    started = time.perf_counter()
    for i in range(30):
        deform(tf.constant([0, i])).numpy()
    return (time.perf_counter() - started) / 30


def measure_peer(peer: Peer, images: UInt8, labels: UInt8) -> tuple[float, float, None]:
    """Return the FLOPs of an image and the images per second of a peer in `model.fit`, without augmentation."""
    import keras

    model = peer.build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, size = images[..., None].astype(np.float32), peer.batch_size
    model.fit(x[: 10 * size], labels[: 10 * size], batch_size=size, verbose=0)
    started = time.perf_counter()
    model.fit(x, labels, batch_size=size, verbose=0)
    return image_flops(model), len(x) / (time.perf_counter() - started), None


def cdeotte() -> keras.Model:
    """Build the network of github.com/cdeotte/MNIST-CNN-99.75."""
    import keras

    layers = []
    for maps, size, stride in (
        *((32, 3, 1), (32, 3, 1), (32, 5, 2)),
        *((64, 3, 1), (64, 3, 1), (64, 5, 2)),
        (128, 4, 1),
    ):
        padding = "same" if stride == 2 else "valid"
        layers += [keras.layers.Conv2D(maps, size, stride, padding=padding, activation="relu")]
        layers += [keras.layers.BatchNormalization()]
        if stride == 2 or maps == 128:
            layers += [keras.layers.Dropout(0.4)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Rescaling(1 / 255), *layers])


@dataclass(frozen=True)
class Peer:
    """A published recipe, whose networks are trained one by one with `model.fit`."""

    build: Callable[[], keras.Model]
    networks: int
    epochs: int
    rows: int  # that each network is trained on
    batch_size: int
    score: str


PEERS = {
    "article": Peer(lambda: build_network(find_preset("lenet").settings), 1, 20, 42_000, 128, ".99018"),
    "cdeotte": Peer(cdeotte, 15, 45, 37_800, 64, ".99757"),
}
"""The LeNet of the article, repaired, with its score on the test rows of `rehearsal-full`, and
github.com/cdeotte/MNIST-CNN-99.75 with its score on Kaggle's leaderboard."""


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {"memory": memory, "throughput": throughput}
"""Measurements that run in a separate process: `python scripts/benchmark.py --measure NAME ARGUMENT ...`."""


def start_measure(name: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a measurement in a separate process. `result_of` waits for its result."""
    command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
    return subprocess.Popen(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the process of a measurement, and return its result."""
    output = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def time_alternately(runs: int, **actions: Callable[[], object]) -> None:
    """Time the actions alternately (A B A B), and print the median and range of each in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            times[name].append(1000 * (time.perf_counter() - started))
    for name, taken in times.items():
        print(
            f"  {name:32} {statistics.median(taken):9.1f} ms   ({min(taken):.1f} to {max(taken):.1f}, {runs} runs)"
        )


def measure_start(runs: int) -> None:
    """Time `--help`, as a measure of the start-up time."""
    print("Start-up time: --help")

    def run_help(command: str) -> Callable[[], object]:
        return lambda: subprocess.run([BIN / command, "--help"], capture_output=True, check=True)

    time_alternately(
        runs, **{"kaggle-digits --help": run_help("kaggle-digits"), "kaggle --help": run_help("kaggle")}
    )


def measure_loading(runs: int, workspace: Workspace) -> None:
    """Time the loading of the CSV files into arrays."""
    import pandas as pd

    cache = workspace.data / "cache"
    print(f"CSV to arrays: train.csv and test.csv of {workspace.competition.name}")

    def load() -> None:
        load_train(workspace.data)
        load_test(workspace.data)

    def cold() -> None:
        shutil.rmtree(cache)
        load()

    def plain() -> None:
        for name in (TRAIN_CSV, TEST_CSV):
            pd.read_csv(workspace.data / name).to_numpy()

    load()
    time_alternately(
        runs, **{"cold (parse, validate, cache)": cold, "warm (from the cache)": load, "pandas.read_csv": plain}
    )


def measure_memory(workspace: Workspace, preset: str) -> None:
    """Measure the peak memory of `train`: of the parent process and of its largest worker."""
    found = result_of(start_measure("memory", workspace.root, workspace.competition.name, preset))
    print(f"Peak memory of train, {preset}, {workspace.competition.name}")
    print(f"  parent {found['parent'] / 1e6:.0f} MB, largest worker {found['worker'] / 1e6:.0f} MB")


def measure_export(workspace: Workspace, presets: tuple[str, ...], rows: int) -> None:
    """Compare the ensemble as one model in ONNX Runtime with `predict`: speed, and the largest difference."""
    import onnxruntime

    images = load_test(workspace.data).images[:rows]
    for preset in presets:
        run = train(workspace, preset=preset, settings={"epochs": 1}, run=f"export-{preset}")
        path = export(workspace, workspace.root / f"{preset}.onnx", run.name)
        session = onnxruntime.InferenceSession(path)

        def one_model(session: Any = session) -> Float32:
            parts = [session.run(None, {"images": images[at : at + 200]})[0] for at in range(0, rows, 200)]
            return np.concatenate(parts)

        def predict(classify: Classifier = Classifier(run)) -> Float32:  # noqa: B008 - one of each preset
            return np.stack([prediction.softmax for prediction in classify([(None, image) for image in images])])

        print(f"Ensemble of {preset} as one model, {path.stat().st_size / 1e6:.1f} MB: {rows:,} test rows")
        print(f"  largest difference of a probability: {abs(one_model() - predict()).max():.1g}")
        time_alternately(3, **{"ONNX Runtime": one_model, "predict": predict})


def measure_training(workspace: Workspace, rows: int) -> None:
    """Measure the training speed of each network on one core, and that of `fast` also on two."""
    print(f"Training, one thread per process, {rows:,} rows")

    def start(name: str) -> subprocess.Popen[str]:
        return start_measure("throughput", workspace.data, name, rows, **ONE_THREAD, TF_CPP_MIN_LOG_LEVEL="3")

    alone = {name: result_of(start(name)) for name in ("lenet", "fast", "default", "cdeotte")}
    for name, found in alone.items():
        reached, peak = found["speed"] * found["flops"], found["peak"]
        augmentation = f", augmentation {found['augmentation']:.0%} of a step" if found["augmentation"] else ""
        print(
            f"  {name:8} {found['speed']:6,.0f} images/s, {found['flops'] / 1e6:4.0f} MFLOP per image: "
            f"{reached / 1e9:4.0f} of {peak / 1e9:.0f} GFLOP/s ({reached / peak:.0%}){augmentation}"
        )
    both = [result_of(process) for process in [start("fast"), start("fast")]]
    print(
        f"  fast on two cores: {sum(b['speed'] for b in both) / alone['fast']['speed']:.2f} times the speed of one"
    )


def measure_peers(workspace: Workspace, rows: int) -> None:
    """Compare the presets with published recipes: compute, and time on two cores from the speed of some steps."""
    results = []
    for name in ("article", "cdeotte", *PRESETS):
        pair = [start_measure("throughput", workspace.data, name, rows, **ONE_THREAD) for _ in range(2)]
        both = [result_of(process) for process in pair]  # the speed of a core, while the other one trains, too
        speed = statistics.mean(found["speed"] for found in both)
        if name in PEERS:
            peer = PEERS[name]
            networks, seen, score = peer.networks, peer.epochs * peer.rows, peer.score
        else:
            preset = PRESETS[name]
            networks, score = preset.folds, f"{preset.result.score:.5f}".lstrip("0")
            batch_size, steps = plan_steps(FULL_TRAIN_ROWS - FULL_TRAIN_ROWS // networks, preset.settings)
            seen = batch_size * sum(steps)
        seconds = -(-networks // 2) * seen / speed
        results.append((name, networks, score, networks * seen * both[0]["flops"] / 1e12, seconds))
    reference = next(seconds for name, *_, seconds in results if name == DEFAULT_PRESET)
    print(f"Steps of {rows:,} rows, two processes of one thread each; times are those of all networks")
    print(f"| recipe | networks | score | TFLOP | seconds | times {DEFAULT_PRESET} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, networks, score, tflop, seconds in results:
        print(f"| {name} | {networks} | {score} | {tflop:,.0f} | {seconds:,.0f} | {seconds / reference:.2f} |")


class CountingProxy:
    """A TCP proxy that forwards connections to a port and counts the bytes in both directions."""

    def __init__(self, port: int) -> None:
        self.up, self.down = 0, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, args=[port], daemon=True).start()

    def _accept(self, port: int) -> None:
        while True:
            client = self._server.accept()[0]
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=self._forward, args=[client, server, "up"], daemon=True).start()
            threading.Thread(target=self._forward, args=[server, client, "down"], daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                setattr(self, direction, getattr(self, direction) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def measure_parallel(workspace: Workspace, rounds: int, settings: tuple[str, ...]) -> None:
    """Time the command `train` with one worker, two workers, and two Dask workers, alternately."""
    folds, port = 6, 18786
    print(f"Parallel training: fast, {folds} folds, {workspace.competition.name} {' '.join(settings)}")
    dask, null = [sys.executable, "-m", "dask"], subprocess.DEVNULL
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard"]
    cluster = [
        subprocess.Popen([*dask, *words], stdout=null, stderr=null) for words in (scheduler, worker, worker)
    ]
    proxy = CountingProxy(port)
    time.sleep(10)
    modes = {
        "one worker": ("--workers", "1"),
        "two workers": ("--workers", "2"),
        "two Dask workers": ("--on", proxy.address),
    }
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    try:
        for number in range(rounds):
            for mode, options in modes.items():
                common = ("--competition", workspace.competition.name, "--root", workspace.root)
                command = ("train", "--preset", "fast", "--run", f"{mode} {number}", *options, *settings)
                started = time.perf_counter()
                subprocess.run([BIN / "kaggle-digits", *common, *command], check=True, capture_output=True)
                times[mode].append(time.perf_counter() - started)
    finally:
        for process in reversed(cluster):
            process.terminate()
    for mode, taken in times.items():
        low, high = min(taken), max(taken)
        print(f"  {mode:18} {statistics.median(taken):6.1f} s   ({low:.1f} to {high:.1f}, {rounds} runs)")
    one, two, remote = (statistics.median(times[mode]) for mode in modes)
    print(f"  two workers: {one / two:.2f} times as fast as one; Dask: {remote / two - 1:+.1%} time")
    sent, received = (count / rounds / 1e6 for count in (proxy.up, proxy.down))
    print(f"  per run: {sent:.1f} MB sent, {received:.1f} MB received ({received / folds:.2f} MB per fold)")


def main() -> None:
    """Run the benchmarks and print their results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mnist-dir", type=Path, default=os.environ.get("KAGGLE_DIGITS_MNIST_DIR"))
    choices = ("memory", "start", "loading", "export", "training", "peers", "where")
    parser.add_argument("--only", nargs="+", choices=choices)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *rest = arguments.measure
        print(json.dumps(MEASURES[name](*rest)))
        return
    packages = ("kaggle-digits", "tensorflow", "keras", "pandas", "pyarrow", "kaggle")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    full = arguments.mnist_dir and not arguments.quick
    with tempfile.TemporaryDirectory() as root:
        workspace = Workspace.at(root, "rehearsal-full" if full else "rehearsal")
        download = ("--competition", workspace.competition.name, "--root", root, "download")
        mnist = ("--mnist-dir", str(arguments.mnist_dir)) if full else ()
        subprocess.run([BIN / "kaggle-digits", *download, *mnist], check=True, capture_output=True)
        parts: dict[str, Callable[[], None]] = {
            # This must be first: the peak memory of a process includes that of its parent when it was started.
            "memory": lambda: measure_memory(workspace, "fast"),
            "start": lambda: measure_start(3 if arguments.quick else 10),
            "loading": lambda: measure_loading(3 if arguments.quick else 5, workspace),
            "export": lambda: measure_export(workspace, ("fast", "default"), 2_000),
            "training": lambda: measure_training(workspace, 3_000 if arguments.quick else 8_000),
            "peers": lambda: measure_peers(workspace, 3_000 if arguments.quick else 8_000),
            "where": lambda: measure_parallel(workspace, 1, ("--set", "epochs=3") if arguments.quick else ()),
        }
        for name in arguments.only or parts:
            parts[name]()


if __name__ == "__main__":
    main()
