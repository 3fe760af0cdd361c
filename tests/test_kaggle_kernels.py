"""Training in a kernel at Kaggle: the real client against a simulated server, which runs the kernel's script."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    SMALL,
    Listener,
    assert_same_run,
    competition_files,
    fake_workers,
    files_with_other_names,
    write_files,
)
from kaggle_server import USER, Fault, KaggleServer, error, zipped

from kaggle_digits import Workspace, download, find_run, train
from kaggle_digits.data.csv import load_data
from kaggle_digits.errors import DataError, KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.execution import Job
from kaggle_digits.execution import kernel as inside
from kaggle_digits.execution.places import kaggle as remote
from kaggle_digits.pipeline import cancel_kernels
from kaggle_digits.runs.directory import Run
from kaggle_digits.runs.plan import make_splits, plan_runs
from kaggle_digits.training.fold import FoldTask, Progress
from kaggle_digits.training.own_network import OwnNetwork
from kaggle_digits.training.recipe import Recipe

RunCli = Callable[..., subprocess.CompletedProcess[str]]
QUICK = {"preset": "lenet", "folds": 2, "settings": SMALL}


def json_fault(**document: object) -> Fault:
    """Return a response with status 200 instead of the normal one; the request is not handled."""
    return Fault(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


def job_of(script: str) -> zipfile.ZipFile:
    """Return the archive with the package and the job in the source of a kernel."""
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(script.split('"""')[3])))


def files_of(run: Run, fold: int) -> dict[str, bytes]:
    """Return the files of a fold that are in the output of a kernel."""
    return {name: (run.fold(fold).path / name).read_bytes() for name in (*remote.FOLD_FILES, remote.METRICS)}


def kernel_output(run: Run, folds: tuple[int, ...] = (0, 1), seeds: tuple[int, ...] = (0,)) -> dict[str, bytes]:
    """Return the output of a kernel that has trained folds of a run, the same ones for each seed."""
    output = {f"fold-{seed}-{fold}.zip": zipped(files_of(run, fold)) for seed in seeds for fold in folds}
    manifest = json.dumps({"folds": list(output), "error": None}).encode()
    return output | {"manifest.json": manifest, "workers.log": b"a line of the log of the workers\n"}


class Trainer:
    """Trains the run "it" at a simulated Kaggle, whose kernels have trained both folds at once."""

    def __init__(self, server: KaggleServer, workspace: Workspace, reference: Workspace) -> None:
        self.server, self.workspace, self.reference = server, workspace, find_run(reference, "one")
        self.server.output = kernel_output(self.reference)
        self.record = workspace.runs / "it" / remote.KERNEL_JSON
        self.notices: list[str] = []
        self.progress: list[Progress] = []
        self.finished: list[int] = []

    def train(self, on: str = "kaggle", **options: object) -> Run:
        observer = Listener(
            notice=self.notices.append,
            progress=self.progress.append,
            finished=lambda task: self.finished.append(task.fold),
        )
        return train(self.workspace, on=on, observer=observer, **{"run": "it"} | QUICK | options)  # type: ignore[arg-type]

    def complete(self, on: str = "kaggle", **options: object) -> Run:
        """Train without an error; the run is the same as one that was trained on this machine."""
        run = self.train(on, **options)
        assert_same_run(run, Workspace.at(self.reference.path.parents[2]))
        assert not self.record.exists()
        return run

    def fail(
        self, kind: type[KaggleDigitsError], words: str, on: str = "kaggle", **options: object
    ) -> KaggleDigitsError:
        with pytest.raises(kind, match=words) as caught:
            self.train(on, **options)
        return caught.value

    def send(self, **options: object) -> str:
        """Send a kernel that goes on running, and return its name."""
        self.server.statuses.append({"status": "RUNNING"})
        self.fail(NetworkError, "is running", wait=False, **options)
        return list(self.server.kernels)[-1]

    def cancel(self, run: str = "it") -> list[str]:
        return cancel_kernels(self.workspace, Recipe(**QUICK, run=run))  # type: ignore[arg-type]

    def jobs(self) -> list[list[tuple[int, int]]]:
        """Return the seeds and the folds that each kernel has been sent."""
        scripts = [job_of(kernel.request["text"]) for kernel in self.server.kernels.values()]
        return [[(t["seed"], t["fold"]) for t in json.loads(s.read(inside.JOB))["tasks"]] for s in scripts]


@pytest.fixture
def trainer(kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace) -> Trainer:
    return Trainer(kaggle, workspace, small_runs)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only for moments."""
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(remote, "PATIENCE", 1.0)
    monkeypatch.setattr("tenacity.wait_random_exponential", lambda **_: lambda state: 0.0)


@pytest.fixture(scope="session")
def kernel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages of this one, except kaggle-digits."""
    folder = tmp_path_factory.mktemp("kernel-python")
    venv.create(folder, symlinks=True)
    target = next((folder / "lib").glob("python*")) / "site-packages"
    # The .pth files in these folders are not read, such as that of an editable installation of kaggle-digits.
    (target / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = folder / "bin" / "python"
    found = subprocess.run([python, "-Pc", "import kaggle_digits"], capture_output=True, text=True, check=False)
    assert "No module named 'kaggle_digits'" in found.stderr
    return python


def test_pack_makes_a_private_offline_script(trainer: Trainer) -> None:
    trainer.complete()
    (request,) = (kernel.request for kernel in trainer.server.kernels.values())
    assert (request["isPrivate"], request.get("enableInternet")) == (True, False)
    assert (request["language"], request["kernelType"]) == ("python", "script")
    assert request["competitionDataSources"] == ["digit-recognizer"]
    assert (request["enableGpu"], request["machineShape"]) == (True, "NvidiaTeslaT4")
    assert "/kaggle/src" not in request["text"]  # the folder of the script is read-only at Kaggle


def test_pack_contains_the_source_of_the_users_network(trainer: Trainer) -> None:
    own = OwnNetwork("cnn", "def cnn():\n    return 'é'\n")
    recipe, data = Recipe(**QUICK, network=own), load_data(trainer.workspace.data)  # type: ignore[arg-type]
    (plan,) = plan_runs(trainer.workspace, recipe, make_splits(recipe, data), data, retrain=False)
    script = remote.pack([Job(task, plan.run.fold(0).path) for task in plan.tasks()], data, gpu=False)
    job = json.loads(job_of(script).read(inside.JOB))
    assert [inside._task(document, job["splits"]).network for document in job["tasks"]] == [own, own]


def test_train_on_kaggle_reports_used_up_quota(trainer: Trainer) -> None:
    trainer.server.fail("SaveKernel", json_fault(error="Maximum weekly GPU quota of 30.00 hours reached."))
    refused = trainer.fail(RefusedError, r"Maximum weekly GPU quota of 30\.00 hours reached")
    assert "3.5 of 30 GPU hours are left this week" in refused.problem
    assert "2026-12-05 at 00:00 UTC" in refused.problem
    assert "--on kaggle-cpu" in refused.remedy
    assert not trainer.record.exists()


@pytest.mark.parametrize(
    ("fault", "exit_code", "words"),
    [
        (error(400, "Bad title"), 4, "Bad title"),
        (error(401, "Unknown"), 3, "Unknown"),
        (
            json_fault(error="Maximum batch GPU session count of 2 reached."),
            4,
            "until one of your kernels has ended",
        ),
    ],
)
def test_train_on_kaggle_keeps_no_record_of_refused_kernel(
    trainer: Trainer, fault: Fault, exit_code: int, words: str
) -> None:
    trainer.server.fail("SaveKernel", fault)
    assert trainer.fail(KaggleDigitsError, words).exit_code == exit_code
    assert trainer.server.count("SaveKernel") == 1
    assert not trainer.record.exists()


@pytest.mark.parametrize("fault", [Fault(response_lost=True), Fault(502, b"<html>", handled=True)])
def test_train_on_kaggle_finds_kernel_whose_push_was_not_confirmed(trainer: Trainer, fault: Fault) -> None:
    trainer.server.fail("SaveKernel", fault)
    trainer.complete()
    assert trainer.server.count("SaveKernel") == 1


@pytest.mark.parametrize("fault", [Fault(dropped=True), json_fault()])
def test_train_on_kaggle_sends_new_kernel_only_if_the_last_one_is_lost(trainer: Trainer, fault: Fault) -> None:
    server = trainer.server
    server.fail("SaveKernel", fault)
    assert "looks for it once more" in trainer.fail(NetworkError, "did not confirm the kernel").remedy
    assert trainer.record.exists()
    # Only Kaggle itself can say that it does not exist, and not a proxy: nothing is sent.
    for unclear in (error(500, "Internal error"), Fault(403, b"<html>Blocked by a proxy</html>")):
        server.fail("GetKernelSessionStatus", *[unclear] * 100)
        trainer.fail(NetworkError, "is unknown")
        server.faults.clear()
    assert (server.count("SaveKernel"), server.kernels) == (1, {})
    trainer.complete()
    assert (server.count("SaveKernel"), len(server.kernels)) == (2, 1)


def test_train_on_kaggle_is_patient_with_status(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 60.0)  # also enough on a busy machine
    trainer.server.fail("GetKernelSessionStatus", error(403, "Denied"), error(500, "Internal error"))
    trainer.server.statuses.extend({"status": state} for state in ("QUEUED", "RUNNING", "RUNNING", "PAUSED"))
    trainer.complete()
    shown = "\n".join(trainer.notices)
    for words in ("Denied", "Internal error", "is unknown: K"):
        assert words in shown
    assert shown.count("The kernel is running") == 1


def test_train_on_kaggle_waits_for_a_machine_but_not_forever_for_the_status(trainer: Trainer) -> None:
    web_page = Fault(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
    trainer.server.fail("GetKernelSessionStatus", *[web_page] * 100)
    trainer.fail(NetworkError, "is unknown")
    trainer.server.faults.clear()
    trainer.server.statuses.extend([{"status": "QUEUED"}] * 15)
    trainer.complete()
    assert sum("waits for a machine" in notice for notice in trainer.notices) == 1
    assert trainer.server.count("SaveKernel") == 1


def test_train_on_kaggle_does_not_need_the_log(trainer: Trainer) -> None:
    trainer.server.statuses.extend([{"status": "RUNNING"}] * 3)
    trainer.server.fail("logs", error(404, "No log"), *[Fault(truncated=True)] * 10)
    trainer.complete()
    assert trainer.server.count("logs") >= 2


@pytest.mark.parametrize(("status", "words"), [("ERROR", "failed"), ("CANCEL_ACKNOWLEDGED", "was cancelled")])
def test_train_on_kaggle_keeps_finished_folds_of_failed_kernel(trainer: Trainer, status: str, words: str) -> None:
    server = trainer.server
    server.outputs.append({"fold-0-0.zip": server.output["fold-0-0.zip"]})
    server.log = b"first line\n[]\nYour notebook tried to allocate more memory than is available.\n"
    server.statuses.append({"status": status, "failureMessage": "Out of memory"})
    trainer.fail(NetworkError, f"{words}: Out of memory.*tried to allocate more memory")
    assert trainer.finished == [0]
    # The next kernel trains only the missing fold.
    trainer.complete()
    assert trainer.jobs() == [[(0, 0), (0, 1)], [(0, 1)]]


def test_train_on_kaggle_sends_next_kernel_for_folds_that_are_missing(trainer: Trainer) -> None:
    trainer.server.outputs.extend(kernel_output(trainer.reference, folds=(fold,)) for fold in (1, 0))
    trainer.complete()
    assert trainer.jobs() == [[(0, 0), (0, 1)], [(0, 0)]]


def test_train_on_kaggle_does_not_send_kernels_that_finish_nothing(trainer: Trainer) -> None:
    trainer.server.output = kernel_output(trainer.reference, folds=())
    trainer.fail(NetworkError, "without a finished fold")
    assert trainer.server.count("SaveKernel") == 1


def test_train_on_kaggle_takes_all_folds_of_failed_kernel(trainer: Trainer) -> None:
    trainer.server.statuses.extend([{"status": "ERROR"}] * 2)
    trainer.server.fail("fold-0-0.zip", *[Fault(dropped=True)] * 4)
    trainer.fail(NetworkError, "cannot be reached")
    assert trainer.finished == [1]  # it was downloaded nevertheless
    trainer.complete()
    assert trainer.server.count("SaveKernel") == 1


def test_train_on_kaggle_sends_new_kernel_if_the_last_one_was_deleted_at_kaggle(trainer: Trainer) -> None:
    trainer.server.deleted.append(trainer.send())  # on the web page
    trainer.complete()
    assert trainer.server.count("SaveKernel") == 2


def test_train_on_kaggle_with_retrain_does_not_use_an_older_kernel(trainer: Trainer) -> None:
    old = trainer.send()
    for fold in ("fold-0", "fold-1"):  # then trained on this machine
        shutil.copytree(trainer.reference.path / fold, trainer.record.parent / fold)
    trainer.send(retrain=True)
    assert trainer.server.deleted == [old]
    assert find_run(trainer.workspace, "it").fold(0).metrics().where == "this machine"
    # The kernel that was sent for --retrain is continued.
    assert trainer.complete(retrain=True).fold(0).metrics().where == "Kaggle"
    assert trainer.server.count("SaveKernel") == 2


def test_train_on_kaggle_for_one_seed_keeps_the_folds_of_the_others(trainer: Trainer) -> None:
    trainer.server.output = kernel_output(trainer.reference, seeds=(0, 1))
    trainer.send(seeds=2)
    trainer.train(run="it-s0")
    assert [path.parent.name for path in trainer.workspace.runs.glob("*/kernel.json")] == ["it-s1"]
    trainer.train(seeds=2)
    assert trainer.server.count("SaveKernel") == 1
    assert not list(trainer.workspace.runs.glob("*/kernel.json"))


def test_train_on_kaggle_trains_several_seeds_in_one_kernel(trainer: Trainer) -> None:
    trainer.server.statuses.append({"status": "ERROR"})
    trainer.fail(NetworkError, "failed", seeds=2)
    assert trainer.jobs() == [[(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert find_run(trainer.workspace, "it-s0").is_finished  # the first seed is complete


CORRUPTED, EXPIRED = Fault(corrupted=True), Fault(403, b"<html>This link has expired</html>")


def test_train_on_kaggle_downloads_a_damaged_file_again(trainer: Trainer) -> None:
    trainer.server.fail("fold-0-1.zip", CORRUPTED, EXPIRED)
    trainer.server.fail("manifest.json", Fault(truncated=True))
    trainer.complete()


def test_train_on_kaggle_names_file_that_stays_damaged(trainer: Trainer) -> None:
    for fault, words in ((EXPIRED, r"cannot be downloaded \(status 403\)"), (CORRUPTED, "cannot be read")):
        trainer.server.fail("fold-0-1.zip", *[fault] * 40)
        trainer.fail(NetworkError, rf"^fold-0-1\.zip in the output of .* {words}")
        trainer.server.faults.clear()
    trainer.complete()
    assert trainer.server.count("SaveKernel") == 1


def test_train_on_kaggle_rejects_folds_that_are_missing_or_damaged(trainer: Trainer) -> None:
    output = trainer.server.output
    changed = files_of(trainer.reference, 0) | {"model.keras": b"another SHA-256 than in metrics.json"}
    for damaged in (zipped(changed), b"PK"):
        trainer.server.output = output | {"fold-0-0.zip": damaged}
        trainer.fail(NetworkError, r"fold-0-0\.zip in the output of .* cannot be read")
        trainer.cancel()
    trainer.server.output = {name: content for name, content in output.items() if name != "fold-0-0.zip"}
    trainer.fail(NetworkError, r"There is no fold-0-0\.zip in the output")
    assert not find_run(trainer.workspace, "it").fold(0).path.exists()


def test_train_on_kaggle_ignores_names_with_paths(trainer: Trainer) -> None:
    trainer.server.more_names = ["../evil.zip", "/evil.zip", "../fold-0-0.zip", "x/fold-0-1.zip"]
    trainer.complete()
    assert not any("evil" in request for request in trainer.server.requests)
    assert trainer.server.count("fold-0-0.zip") == 1


def test_kernel_trains_the_same_folds_as_this_machine(trainer: Trainer, kernel_python: Path) -> None:
    trainer.server.python = kernel_python
    run = trainer.complete("kaggle-cpu")
    assert sorted(trainer.finished) == [0, 1]
    assert sum(progress.is_epoch_end for progress in trainer.progress) == 2  # each fold has one epoch
    (slug,) = trainer.server.kernels
    assert f"https://www.kaggle.com/code/{USER}/{slug}" in trainer.notices[0]
    assert any(notice.startswith("Kernel: It trains on the CPU, with TensorFlow") for notice in trainer.notices)
    assert run.fold(0).metrics().where == "Kaggle"
    assert run.fold(0).metrics().versions == trainer.reference.fold(0).metrics().versions
    assert {path.name for path in run.path.iterdir()} == {path.name for path in trainer.reference.path.iterdir()}


def test_train_on_kaggle_names_module_that_is_missing(
    trainer: Trainer, kernel_python: Path, tmp_path: Path
) -> None:
    write_files(tmp_path / "broken", {"pydantic.py": b"raise ModuleNotFoundError(\"No module named 'pydantic'\")"})
    trainer.server.python = kernel_python
    trainer.server.kernel_environment = {"PYTHONPATH": str(tmp_path / "broken")}
    trainer.fail(NetworkError, "failed.*No module named 'pydantic'")
    assert not trainer.record.exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DataError", DataError),
        ("RefusedError", RefusedError),
        ("WorkerDiedError", NetworkError),
        ("KaggleDigitsError", KaggleDigitsError),
    ],
)
def test_train_on_kaggle_raises_the_error_in_the_manifest(trainer: Trainer, name: str, kind: type) -> None:
    manifest = {"folds": [], "error": {"type": name, "problem": "Bad.", "remedy": "Fix it."}}
    trainer.server.output = {"manifest.json": json.dumps(manifest).encode()}
    assert type(trainer.fail(kind, r"^In the kernel: Bad\. Fix it\.$")) is kind
    assert not trainer.record.exists()


@pytest.fixture
def run_kernel(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Run a kernel in this process, with the data in a folder that Kaggle used before, and return its manifest."""
    root = tmp_path / "kaggle"
    write_files(root / "input" / "digit-recognizer", competition_files())
    (root / "working").mkdir()
    monkeypatch.setenv("KAGGLE_DIGITS_KERNEL_ROOT", str(root))

    def run(train: Callable[[FoldTask, Path, str], None], gpus: tuple[str, ...] = ("0",)) -> dict:
        monkeypatch.setattr(inside, "find_gpus", lambda: list(gpus))
        data, recipe = load_data(trainer.workspace.data), Recipe(**QUICK)
        (plan,) = plan_runs(trainer.workspace, recipe, make_splits(recipe, data), data, retrain=False)
        script = remote.pack([Job(task, tmp_path) for task in plan.tasks()], data, gpu=True)
        job_of(script).extractall(tmp_path / "src")
        with fake_workers(train):
            inside.main(str(tmp_path / "src"))
        return json.loads((root / "working" / "manifest.json").read_text())

    return run


@pytest.mark.parametrize(
    ("gpus", "hours", "folds"), [(("0", "1"), 1, ["fold-0-0.zip", "fold-0-1.zip"]), (("0",), 9, ["fold-0-0.zip"])]
)
def test_kernel_trains_a_fold_on_each_gpu_that_would_finish_before_the_deadline(
    trainer: Trainer, run_kernel: Callable[..., dict], gpus: tuple[str, ...], hours: int, folds: list[str]
) -> None:
    used: list[str] = []

    def copy_fold(task: FoldTask, folder: Path, gpu: str) -> None:
        used.append(gpu)
        shutil.copytree(trainer.reference.fold(task.fold).path, folder)
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(metrics | {"seconds": hours * 3600}))

    assert run_kernel(copy_fold, gpus) == {"folds": folds, "error": None}
    assert used == list(gpus)


@pytest.mark.parametrize(
    ("gpus", "changes", "kind", "words"),
    [
        ((), {}, "RefusedError", "no GPU that TensorFlow can use"),
        (("0",), {"test.csv": b"changed"}, "DataError", "The data at Kaggle are different .* another test.csv"),
        (("0",), None, "RefusedError", "does not have the data of the competition: .*input does not exist"),
        (("0",), {}, "KaggleDigitsError", "Internal error in the kernel: ZeroDivisionError: division by zero"),
    ],
)
def test_kernel_writes_errors_into_the_manifest(
    run_kernel: Callable[..., dict], tmp_path: Path, gpus: tuple, changes: dict | None, kind: str, words: str
) -> None:
    if changes is None:
        shutil.rmtree(tmp_path / "kaggle" / "input")
    else:
        write_files(tmp_path / "kaggle" / "input" / "digit-recognizer", changes)
    manifest = run_kernel(lambda *_: 1 / 0, gpus)
    assert (manifest["folds"], manifest["error"]["type"]) == ([], kind)
    assert re.search(words, manifest["error"]["problem"])


def test_find_data_recognizes_files_with_other_names(tmp_path: Path) -> None:
    files = files_with_other_names("uni-digits")
    inputs = write_files(tmp_path / "input" / "competitions" / "uni-digits", files).parents[1]
    data = load_data(download(Workspace.at(tmp_path, "uni-digits"), source=inputs).folder)
    assert inside._find_data(inputs, data.hashes).hashes == data.hashes


WORDS = ("train", "--preset", "lenet", "--folds", "2", "--set", "epochs=1", "--set", "batch_size=20")
ON_KAGGLE = (*WORDS, "--run", "it", "--on", "kaggle")


@pytest.fixture
def command(trainer: Trainer, call_cli: RunCli) -> RunCli:
    """Run the command `train --on kaggle` with more options."""
    return partial(call_cli, "--root", trainer.workspace.root, *ON_KAGGLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("SaveKernel", signal.SIGKILL),
        ("SaveKernel", signal.SIGINT),
        ("GetKernelSessionStatus", signal.SIGINT),
        ("fold-0-1.zip", signal.SIGKILL),
    ],
)
def test_train_on_kaggle_continues_after_it_was_killed(trainer: Trainer, step: str, number: int) -> None:
    script = (
        "import kaggle_digits.execution.places.kaggle as remote; remote.POLL_SECONDS = .2; "
        "from kaggle_digits.__main__ import main; main()"
    )
    command = [sys.executable, "-c", script, "--root", str(trainer.workspace.root), *ON_KAGGLE]
    trainer.server.statuses.append({"status": "RUNNING"})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill() -> None:
        process.send_signal(number)
        process.wait()

    trainer.server.before_response[step] = kill
    _, shown = process.communicate(timeout=120)
    assert step in trainer.server.requests
    if number == signal.SIGINT:
        assert process.returncode == 130, shown
        assert "is not ended by Ctrl-C. The same command continues with it" in shown
        assert "Interrupted" in shown
    trainer.complete()
    assert trainer.server.count("SaveKernel") == 1
    assert trainer.server.deleted == []


def test_no_wait_ends_after_the_push(trainer: Trainer, command: RunCli) -> None:
    trainer.server.statuses.extend([{"status": "RUNNING"}] * 2)
    for _ in range(2):
        ended = command("--no-wait")
        assert ended.returncode == 5
        assert "is running" in ended.stderr
    assert command("--no-wait").returncode == 0  # by now it is complete
    assert trainer.server.count("SaveKernel") == 1


def test_dry_run_shows_what_would_be_sent(trainer: Trainer, command: RunCli) -> None:
    shown = command("--dry-run")
    assert shown.returncode == 0
    assert "nothing was sent" in shown.stdout
    assert "folds    0, 1" in shown.stdout
    assert "3.5 of 30 GPU hours left, until 2026-12-05 00:00 UTC" in shown.stdout
    document = json.loads(command("--dry-run", "--json").stdout)
    assert document["folds"] == [[0, 0], [0, 1]]
    assert 100_000 < document["bytes"] < 300_000
    trainer.server.fail("GetAcceleratorQuotaStatistics", error(404, "Not found"))
    assert json.loads(command("--dry-run", "--json").stdout)["gpu_hours"] is None
    assert trainer.server.count("SaveKernel") == 0
    assert not trainer.workspace.runs.exists()
    trainer.complete()
    assert "nothing would be sent, because all folds" in command("--dry-run").stdout
    assert json.loads(command("--dry-run", "--retrain", "--json").stdout)["folds"] == [[0, 0], [0, 1]]


def test_cancel_deletes_the_kernel(trainer: Trainer, command: RunCli) -> None:
    assert "No kernel of this run is known" in command("--cancel").stdout
    slug = trainer.send()
    address = f"https://www.kaggle.com/code/{USER}/{slug}"
    trainer.server.fail("DeleteKernel", *[error(500, "Internal")] * 10)
    failed = command("--cancel")
    assert failed.returncode == 5
    assert "was deleted: Kaggle's server reports an error (status 500): Internal" in failed.stderr
    assert f"may still run; delete it at {address}" in failed.stderr
    trainer.server.faults.clear()
    trainer.server.fail("DeleteKernel", json_fault(errorMessage="It is locked"))
    assert "was deleted: It is locked." in command("--cancel").stderr
    assert json.loads(command("--cancel", "--json").stdout) == {"deleted": [address]}
    assert trainer.server.deleted == [slug]
    assert not trainer.record.exists()


def test_cancel_deletes_nothing_if_record_is_changed(trainer: Trainer, command: RunCli) -> None:
    trainer.send()
    trainer.record.write_text(json.dumps(json.loads(trainer.record.read_text()) | {"slug": "my-notebook"}))
    for option in ("--cancel", "--retrain"):
        refused = command(option)
        assert refused.returncode == 6
        assert "kernel.json is damaged" in refused.stderr
    assert trainer.server.deleted == []
    assert trainer.record.exists()


def test_train_rejects_options_that_do_not_fit_together(trainer: Trainer, call_cli: RunCli) -> None:
    exclusive = ("--workers 2", "--cancel --no-wait", "--cancel --output here.csv")
    for words in ("--dry-run", "--on nowhere", *(f"--on kaggle {options}" for options in exclusive)):
        assert call_cli("--root", trainer.workspace.root, *WORDS, *words.split()).returncode == 2, words
    assert trainer.server.requests == []


@pytest.mark.parametrize("option", ["--dry-run", "--cancel", "--json"])
def test_train_on_kaggle_rejects_local_competitions(kaggle: KaggleServer, call_cli: RunCli, option: str) -> None:
    refused = call_cli("--competition", "rehearsal", *ON_KAGGLE, option)
    assert refused.returncode == 2
    assert "does not have its data" in refused.stderr
    assert kaggle.requests == []
