"""Networks of the user: what is accepted, what is kept of them, and that nothing else is run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Listener, small_data

import kaggle_digits as kd
from kaggle_digits.data.csv import load_test
from kaggle_digits.data.folds import make_folds
from kaggle_digits.runs.directory import FoldsRun
from kaggle_digits.training.fold import FoldTask, Progress, train_fold
from kaggle_digits.training.models import keras_bytes
from kaggle_digits.training.own_network import OwnNetwork, find_network, known_networks
from kaggle_digits.training.presets import find_preset

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]
SOURCE = """
import keras
from keras import layers, ops

def sequential():
    scaled, convolution = layers.Rescaling(1 / 255), layers.Conv2D(4, 5, strides=4, activation="relu")
    return keras.Sequential([scaled, convolution, layers.Flatten(), layers.Dense(10, activation="softmax")])

def nested():
    base = keras.Sequential([layers.Conv2D(4, 5, strides=4), layers.BatchNormalization(), layers.Dropout(0.5)])
    head = keras.Sequential([layers.Flatten(), layers.Dense(10, activation="softmax")])
    shifted = layers.RandomTranslation(0.1, 0.1)
    return keras.Sequential([keras.Input((28, 28, 1)), shifted, layers.Rescaling(1 / 255), base, head])

def functional():
    pixels = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 5, strides=4, padding="same")(ops.divide(pixels, 255))
    x = ops.relu(x + layers.DepthwiseConv2D(3, padding="same")(x)) * 2
    return keras.Model(pixels, layers.Softmax()(layers.Dense(10)(ops.mean(x, (1, 2)))))

def recurrent():
    pixels = keras.Input((28, 28, 1))
    x, *state = layers.LSTM(4, return_state=True)(layers.Reshape((28, 28))(pixels))
    return keras.Model(pixels, layers.Dense(10)(x))

class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [layers.Conv2D(4, 5, strides=4, activation="relu"), layers.Flatten(), layers.Dense(10)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x

def subclass():
    return Network()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with the functions of `SOURCE`, which no other test of this process has given."""
    known_networks.clear()
    (tmp_path / "cnn.py").write_text(SOURCE)
    return tmp_path / "cnn.py"


def quick(workspace: kd.Workspace, network: Any, **options: Any) -> FoldsRun:
    run = kd.train(workspace, preset="lenet", folds=2, settings=SMALL, network=network, **options)
    assert isinstance(run, FoldsRun)
    return run


def use(workspace: kd.Workspace, run: FoldsRun, network: Any = None) -> kd.Report:
    """Predict with a run, export and report it."""
    images = load_test(workspace.data).images
    predictions = kd.predict(workspace, images, run, network)
    softmaxes = [prediction.networks.mean(0) for prediction in predictions]
    np.testing.assert_allclose(softmaxes, run.test_softmax(), atol=1e-6)
    kd.export(workspace, workspace.root / "digits.keras", run, network=network)
    return kd.report(workspace, run, network)


@pytest.mark.usefixtures("train_in_process")
@pytest.mark.parametrize(
    ("function", "softmax"),
    [("sequential", "dense"), ("nested", "dense"), ("functional", "softmax"), ("recurrent", "")],
)
def test_own_network_is_trained_and_used_like_that_of_a_preset(
    workspace: kd.Workspace, source: Path, function: str, softmax: str
) -> None:
    notices: list[str] = []
    run = quick(workspace, f"{source}:{function}", observer=Listener(notice=notices.append))
    known_networks.clear()  # as in another process, which reads the networks from their files
    written = use(workspace, run)
    assert [f"at the end of {function}, in its layer {softmax}" in notice for notice in notices] == [True] * bool(
        softmax
    )
    parameters = run.fold(0).metrics().as_json()["parameters"]
    assert sum(layer["parameters"] for layer in written.document["layers"]) == parameters
    settings = written.document["run"]["settings"]
    assert settings["epochs"] == 1
    assert not {"network", "widths", "dropout"} & settings.keys()
    page = written.page.read_text()
    assert f"<dd>{function}, SHA-256 <code>{hashlib.sha256(SOURCE.encode()).hexdigest()}</code>" in page
    assert f"def {function}():\n" in page


@pytest.mark.usefixtures("train_in_process")
def test_network_with_layers_of_its_own_needs_its_source_again(
    workspace: kd.Workspace, source: Path, call_cli: RunCli
) -> None:
    run = quick(workspace, f"{source}:subclass")
    use(workspace, run)  # the source is known, because this process has trained it
    known_networks.clear()
    options = ("--root", workspace.root, "report", "--run", "subclass")
    (source.parent / "other.py").write_text(f"{SOURCE}# changed")
    for network in ((), ("--network", f"{source.parent / 'other.py'}:subclass")):
        refused = call_cli(*options, *network)
        assert refused.returncode == 2
        assert "model.keras has layers that are not those of Keras" in refused.stderr
        assert "whose copy is network.py in the folder of the run: --network FILE.py:FUNCTION" in refused.stderr
    assert call_cli(*options, "--network", f"{run.path / 'network.py'}:subclass").returncode == 0
    known_networks.clear()
    use(workspace, run, f"{source}:subclass")


@pytest.mark.usefixtures("train_in_process")
def test_train_continues_a_run_only_with_the_same_source(
    workspace: kd.Workspace, source: Path, tmp_path: Path
) -> None:
    run = quick(workspace, f"{source}:sequential")
    assert run.name == "sequential-lenet-k2-s0-epochs=1-batch_size=20"
    assert (run.path / "network.py").read_text() == SOURCE
    info = json.loads((run.path / "run.json").read_text())
    assert (info["network"], info["network_sha256"]) == ("sequential", hashlib.sha256(SOURCE.encode()).hexdigest())
    (tmp_path / "other.py").write_text(SOURCE)
    shutil.rmtree(run.fold(1).path)
    before = (run.fold(0).path / "metrics.json").stat().st_mtime_ns
    assert quick(workspace, f"{tmp_path / 'other.py'}:sequential") == run
    assert (run.fold(0).path / "metrics.json").stat().st_mtime_ns == before
    source.write_text(SOURCE.replace("5, strides", "3, strides"))
    with pytest.raises(kd.UsageError, match=r"its network's SHA-256 is .*Choose another name") as caught:
        quick(workspace, f"{source}:sequential")
    assert f"{run.path / 'network.py'}:sequential" in caught.value.remedy
    assert quick(workspace, f"{run.path / 'network.py'}:sequential") == run
    changed = quick(workspace, f"{source}:sequential", run="changed")
    (pair,) = kd.compare(workspace, run, changed).document["pairs"]
    assert pair["differences"] == {"network_sha256": [run.info.network_sha256, changed.info.network_sha256]}
    with pytest.raises(kd.UsageError, match="its network is sequential, not nested"):
        quick(workspace, f"{tmp_path / 'other.py'}:nested", run=run.name)
    with pytest.raises(kd.UsageError, match="its network is sequential, not lenet"):
        quick(workspace, None, run=run.name)


def test_own_network_resumes_with_an_identical_result(tmp_path: Path) -> None:
    """Also with dropout, batch normalisation and augmentation inside of a nested model."""
    data = small_data(60)
    settings = find_preset("lenet").with_settings({"epochs": 4, "batch_size": 10}).settings
    task = FoldTask(settings, 0, 1, make_folds(data.train.labels, 2, 0), OwnNetwork("nested", SOURCE))

    def keep(progress: Progress) -> None:
        if progress.is_epoch_end and progress.epoch == 3:  # it is saved after its report
            shutil.copytree(tmp_path / "fold", tmp_path / "interrupted")

    whole = train_fold(task, data, keep, tmp_path / "fold")
    seen: list[int] = []
    resumed = train_fold(task, data, lambda progress: seen.append(progress.epoch), tmp_path / "interrupted")
    assert set(seen) == {3, 4}
    assert resumed.test_softmax.tobytes() == whole.test_softmax.tobytes()
    assert [epoch["loss"] for epoch in resumed.history] == [epoch["loss"] for epoch in whole.history]
    assert whole.metrics["network_sha256"] == OwnNetwork("", SOURCE).sha256


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", r"TypeError: it returns int instead of a Keras model\."),
        ("return Dense(10)", r"NameError: name 'Dense' is not defined \(line 5\)\."),
        ("return f(1)", r"f\(\) takes 0 positional arguments but 1 was given \(line 5\)\."),
        ("return keras.Sequential([keras.Input((784,)), layers.Dense(10)])", r"expected shape=\(None, 784\)"),
        ("return keras.Sequential([layers.Flatten(), layers.Dense(9)])", r"28, 1\] and returns \[b, 9\]\."),
        (
            "x = layers.Input((None, 28, 1)); return keras.Model(x, x)",
            r"takes \[b, None, 28, 1\] and returns \[b, None,",
        ),
        (
            "x = layers.Input((28, 28, 1)); y = layers.Dense(10)(layers.Flatten()(x)); "
            "return keras.Model(x, ops.softmax(y))",
            r"its outputs are probabilities, but its last layer is no softmax that can be removed\.",
        ),
    ],
)
def test_build_names_what_is_wrong_with_a_network(body: str, words: str) -> None:
    source = f"import keras\nfrom keras import layers, ops\n\ndef f():\n    {body}"
    with pytest.raises(kd.UsageError, match=rf"The network f cannot be used: .*{words}.* Let the function import"):
        OwnNetwork("f", source).build()


@pytest.mark.parametrize(
    ("network", "content", "words"),
    [
        ("cnn.py", b"", r"'cnn\.py' is not of the form FILE\.py:FUNCTION"),
        ("cnn.py:f", None, r"cnn\.py cannot be read: No such file"),
        ("cnn.py:f", b"\xff", r"cnn\.py cannot be read: it is not a text in UTF-8"),
        ("cnn.py:f", b"def f(:", r"cnn\.py is not valid Python: .* \(line 1\)"),
        ("cnn.py:fn", b"def cnn(): pass\nfoo = 3", r"no function in cnn\.py called 'fn'.*\nChoose one of: cnn\."),
        ("cnn.py:f", b"def f(): return 3", r"The network f cannot be used: TypeError: it returns int"),
    ],
)
def test_train_rejects_files_without_a_network_and_leaves_no_run_behind(
    workspace: kd.Workspace, call_cli: RunCli, tmp_path: Path, network: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "cnn.py").write_bytes(content)
    refused = call_cli("--root", workspace.root, "train", "--network", network)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 2
    assert re.search(words, refused.stderr), refused.stderr
    assert not workspace.runs.exists()


def in_notebook() -> Any:
    """Return a network, as a function that a notebook defines."""
    import keras

    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])


@pytest.mark.usefixtures("train_in_process")
def test_train_takes_a_function_by_its_source(workspace: kd.Workspace) -> None:
    run = quick(workspace, in_notebook)
    assert (run.path / "network.py").read_text().startswith("def in_notebook() -> Any:\n")
    assert run.name.startswith("in_notebook-lenet-")
    use(workspace, run)


@pytest.mark.parametrize("function", [len, int, lambda: None])
def test_find_network_says_that_the_source_of_a_function_is_not_known(function: Callable[[], Any]) -> None:
    with pytest.raises(kd.UsageError, match=r"The source of the network .* is not known\. Define it by def"):
        find_network(function)


def test_train_rejects_settings_of_the_network_that_is_replaced(workspace: kd.Workspace) -> None:
    with pytest.raises(kd.UsageError, match="The setting widths has no effect on the network in_notebook"):
        kd.train(workspace, network=in_notebook, settings={"widths": "1,2,3"})


@pytest.mark.usefixtures("train_in_process")
@pytest.mark.parametrize("claims_source", [False, True])
def test_nothing_in_the_folder_of_a_run_is_executed(
    workspace: kd.Workspace, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims_source: bool
) -> None:
    import keras

    run, mark = quick(workspace, f"{source}:sequential"), tmp_path / "executed"
    name = str(mark)
    known_networks.clear()
    attack = f"open({str(mark)!r}, 'w')\ndef sequential():\n    open({str(mark)!r}, 'w')\n"
    (run.path / "network.py").write_text(attack)
    digest = hashlib.sha256(attack.encode()).hexdigest()
    for fold in range(2):
        path = run.fold(fold).path / "model.keras"
        layer = keras.layers.Lambda(lambda x: open(name, "w") and x)  # noqa: SIM115
        model = keras.Sequential([keras.Input((28, 28, 1)), layer])
        path.write_bytes(keras_bytes(model))
        mark.unlink(missing_ok=True)
        metrics = run.fold(fold).metrics().as_json()
        metrics["files"]["model.keras"] = hashlib.sha256(path.read_bytes()).hexdigest()
        metrics["network_sha256"] = digest if claims_source else None
        (run.fold(fold).path / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr("keras.models.load_model", lambda *arguments, **options: pytest.fail("loaded"))
    for action in (
        lambda: kd.report(workspace, run),
        lambda: kd.predict(workspace, load_test(workspace.data).images, run),
        lambda: kd.export(workspace, tmp_path / "digits.keras", run),
    ):
        with pytest.raises(kd.KaggleDigitsError, match="of its own source" if claims_source else "is not loaded"):
            action()
    quick(workspace, f"{source}:sequential")  # continues the run, and writes its own source again
    assert (run.path / "network.py").read_text() == SOURCE
    assert not mark.exists()


def test_build_leaves_out_only_a_softmax_at_the_end() -> None:
    gated = """
def gated():
    pixels = keras.Input((28, 28, 1))
    x = layers.Flatten()(pixels)
    return keras.Model(pixels, layers.Dense(10)(x) * layers.Dense(10, activation="softmax", name="gate")(x))
"""
    images = np.random.default_rng(1).uniform(0, 255, (3, 28, 28, 1))
    for function in ("sequential", "nested", "functional"):
        logits = np.asarray(OwnNetwork(function, SOURCE).build()(images))
        assert abs(logits.sum(1) - 1).min() > 1e-3, function
    notices: list[str] = []
    network = OwnNetwork("gated", f"{SOURCE}{gated}").build(notices.append)
    assert network.get_layer("gate").activation.__name__ == "softmax"
    assert notices == []
