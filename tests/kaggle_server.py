"""A fake Kaggle server for the real client, with the part of the API that the client uses, and with faults."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tempfile
import threading
import time
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

USER, KEY, TOKEN = "ada", "0123456789abcdef", "KGAT_feedc0de"
DATE = "2026-11-24T10:00:00Z"


@dataclass
class Fault:
    """A fault of one request."""

    status: int = 0  # of the response; the request is then not handled, unless `handled` is set
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    response_lost: bool = False  # the request is handled, and the connection is closed without a response
    handled: bool = False  # the request is handled, although the response has `status`
    dropped: bool = False  # the connection is closed, and the request is not handled
    truncated: bool = False  # the response has a correct Content-Length, but only half of its body
    corrupted: bool = False  # the response has the correct length, but some of its bytes are changed


def error(status: int, message: str, handled: bool = False, **headers: str) -> Fault:
    """Return a fault with an error response in Kaggle's format."""
    body = json.dumps({"code": status, "message": message}).encode()
    return Fault(status, body, {"Content-Type": "application/json"} | headers, handled=handled)


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


class Kernel:
    """A kernel: a script that runs in its own folder, as at Kaggle."""

    def __init__(self, request: dict, files: dict[str, bytes], competition: str) -> None:
        self.request = request  # that created it
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.root = Path(self._folder.name)  # with `input`, `src` and `working`
        data = self.root / "input" / "competitions" / competition
        for folder in (data, self.root / "working", self.root / "src"):
            folder.mkdir(parents=True)
        for name, content in files.items():
            (data / name).write_bytes(content)
        (self.root / "src" / "script.py").write_text(request["text"])
        self.log = self.root / "log"
        self.log.touch()
        self.process: subprocess.Popen | None = None

    def start(self, python: Path, environment: dict[str, str]) -> None:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [python, self.root / "src" / "script.py"],
                cwd=self.root / "working",
                env=environment | {"KAGGLE_DIGITS_KERNEL_ROOT": str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def status(self) -> str:
        code = self.process.poll() if self.process else 0
        return "RUNNING" if code is None else "COMPLETE" if code == 0 else "ERROR"

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()


class KaggleServer:
    """A fake Kaggle server for one competition, at the address `url`."""

    def __init__(self) -> None:
        self.competition = "digit-recognizer"
        self.files: dict[str, bytes] = {}
        self.submissions: list[dict] = []
        self.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 10, "limitedByTotal": False}
        self.board: list[tuple[int, str, str, str]] = []
        self.scoring: deque[dict] = deque()
        self.uploads: dict[str, bytes] = {}
        self.file_names: dict[str, str] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[str] = []
        # The Python that runs kernels. Without it, a kernel is complete at once.
        self.python: Path | None = None
        self.kernel_environment: dict[str, str] = {}
        self.kernels: dict[str, Kernel] = {}
        self.deleted: list[str] = []
        # The log and the files of a kernel that does not run. The next kernels use `outputs` first.
        self.log = b""
        self.output: dict[str, bytes] = {}
        self.outputs: deque[dict[str, bytes]] = deque()
        self.more_names: list[str] = []  # in the list of the output of each kernel, besides its files
        self.before_response: dict[str, Callable[[], None]] = {}  # called once before the response, by its name
        self.statuses: deque[dict] = deque()  # of kernels, instead of the real ones
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kaggle": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        for kernel in self.kernels.values():
            kernel.close()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next requests to `call` fail with these faults, in this order."""
        self.faults[call].extend(faults)

    def bundle(self) -> bytes:
        return zipped(self.files)

    def count(self, call: str) -> int:
        return self.requests.count(call)

    # The methods of the API. The last part of the URL is the name of the method.

    def IntrospectToken(self, request: dict) -> dict:  # noqa: N802
        return {"active": request["token"] == TOKEN, "username": USER if request["token"] == TOKEN else ""}

    def GenerateAccessToken(self, request: dict) -> dict:  # noqa: N802
        return {"token": TOKEN, "expiresIn": 3600}

    def ListDataFiles(self, request: dict) -> dict:  # noqa: N802
        return {"files": [{"name": n, "totalBytes": len(c), "ref": n} for n, c in self.files.items()]}

    def GetSubmissionLimits(self, request: dict) -> dict:  # noqa: N802
        return self.limits

    def StartSubmissionUpload(self, request: dict) -> dict:  # noqa: N802
        token = f"upload-{len(self.uploads)}"
        self.uploads[token] = b""
        self.file_names[token] = request["fileName"]
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def CreateSubmission(self, request: dict) -> dict:  # noqa: N802
        ref = 1000 + len(self.submissions)
        outcome = self.scoring.popleft() if self.scoring else {"status": "COMPLETE", "publicScore": "0.99757"}
        token, description = request["blobFileTokens"], request.get("submissionDescription", "")
        file = {"fileName": self.file_names[token], "content": self.uploads[token]}
        submission = {"ref": ref, "date": DATE, "description": description, "teamName": "Ada's team"}
        self.submissions.insert(0, submission | file | outcome)
        return {"message": "Successfully submitted to Digit Recognizer", "ref": ref}

    def ListSubmissions(self, request: dict) -> dict:  # noqa: N802
        page = max(1, request.get("page") or 1)
        shown = self.submissions[20 * (page - 1) : 20 * page]
        answer = {"submissions": [{k: v for k, v in s.items() if k not in ("content", "after")} for s in shown]}
        for submission in self.submissions:
            # A pending submission gets its score after it was listed `after` times.
            if submission["status"] == "PENDING" and "after" in submission:
                submission["after"] -= 1
                if submission["after"] <= 0:
                    submission |= {"status": "COMPLETE", "publicScore": "0.99757"}
        return answer

    def SaveKernel(self, request: dict) -> dict:  # noqa: N802
        user, slug = request["slug"].split("/")
        assert user == USER
        assert request["newTitle"] == slug
        assert slug not in self.kernels
        self.kernels[slug] = kernel = Kernel(request, self.files, self.competition)
        if self.python is None:
            for name, content in (self.outputs.popleft() if self.outputs else self.output).items():
                (kernel.root / "working" / name).write_bytes(content)
            kernel.log.write_bytes(self.log)
        else:
            names = [name for name in os.environ if "proxy" not in name.lower() and not name.startswith("KAGGLE")]
            kernel.start(self.python, {name: os.environ[name] for name in names} | self.kernel_environment)
        answer = {"ref": f"/code/{USER}/{slug}", "url": f"https://www.kaggle.com/code/{USER}/{slug}"}
        return answer | {"versionNumber": 1, "kernelId": len(self.kernels)}

    def GetKernelSessionStatus(self, request: dict) -> dict:  # noqa: N802
        kernel = self._kernel(request)
        return self.statuses.popleft() if self.statuses else {"status": kernel.status()}

    def ListKernelSessionOutput(self, request: dict) -> dict:  # noqa: N802
        kernel, slug = self._kernel(request), request["kernelSlug"]
        lines = kernel.log.read_text().splitlines(keepends=True)
        log = [{"stream_name": "stdout", "time": i, "data": line} for i, line in enumerate(lines)]
        # Two files on each page.
        names = [*self.more_names, *sorted(path.name for path in (kernel.root / "working").iterdir())]
        start = int(request.get("pageToken") or 0)
        files = [{"fileName": n, "url": f"http://localhost/output/{slug}/{n}"} for n in names[start : start + 2]]
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(names) else {}
        return {"files": files, "log": json.dumps(log), **more}

    def GetAcceleratorQuotaStatistics(self, request: dict) -> dict:  # noqa: N802
        return {
            "quotaRefreshTime": "2026-12-05T00:00:00Z",
            "gpuQuota": {"timeUsed": "95400s", "totalTimeAllowed": "108000s"},  # 26.5 and 30 hours
        }

    def DeleteKernel(self, request: dict) -> dict:  # noqa: N802
        self._kernel(request).stop()
        self.deleted.append(request["kernelSlug"])
        return {}

    def _kernel(self, request: dict) -> Kernel:
        slug = request["kernelSlug"]
        # Kaggle responds in the same way if there is no such kernel.
        if request["userName"] != USER or slug not in self.kernels or slug in self.deleted:
            raise PermissionError("Permission 'kernels.get' was denied")
        return self.kernels[slug]


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = urlsplit(self.path).path.rsplit("/", 1)[-1]
        self.kaggle.requests.append(call)
        fault = self._fault(call)
        if fault is None:
            return None
        if call not in ("IntrospectToken", "GenerateAccessToken") and not self._authorised():
            return self._json({"code": 401, "message": "Unauthenticated"}, 401)
        request = json.loads(body or b"{}")
        if request.get("competitionName", self.kaggle.competition) != self.kaggle.competition:
            return self._json({"code": 404, "message": "Competition not found"}, 404)
        if call == "DownloadDataFiles":
            return self._redirect(f"/storage/{self.kaggle.competition}.zip")
        if call == "DownloadDataFile":
            return self._redirect(f"/storage/{request['fileName']}")
        if call == "DownloadLeaderboard":
            rows = [
                f'{rank},{rank},"{team}",{DATE},{score},1,"{user}"'
                for rank, team, score, user in self.kaggle.board
            ]
            header = "Rank,TeamId,TeamName,LastSubmissionDate,Score,SubmissionCount,TeamMemberUserNames"
            return self._bytes(zipped({"board.csv": ("\ufeff" + "\r\n".join([header, *rows])).encode()}), fault)
        try:
            answer = getattr(self.kaggle, call)(request)
        except PermissionError as refusal:
            return self._json({"code": 403, "message": str(refusal)}, 403)
        self._call_before_response(call)
        if fault.response_lost:
            return self._drop()
        if fault.handled:
            return self._bytes(fault.body, fault, fault.status)
        return self._json(answer)

    def do_GET(self) -> None:
        folder, _, name = urlsplit(self.path).path.rpartition("/")
        if "/kernels/logs/stream/" in folder:
            with suppress(ConnectionError):  # the client has seen enough
                self._stream(self.kaggle.kernels[name])
            return None
        self.kaggle.requests.append(name)
        fault = self._fault(name)
        if fault is None:
            return None
        if folder.startswith("/output/"):
            kernel = self.kaggle.kernels[folder.rpartition("/")[2]]
            self._call_before_response(name)
            return self._bytes((kernel.root / "working" / name).read_bytes(), fault)
        content = self.kaggle.bundle() if name == f"{self.kaggle.competition}.zip" else self.kaggle.files[name]
        return self._bytes(content, fault)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.kaggle.requests.append("upload")
        if self._fault("upload") is not None:
            self.kaggle.uploads[urlsplit(self.path).path.rsplit("/", 1)[-1]] = content
            self._bytes(b"")

    def _fault(self, call: str) -> Fault | None:
        """Respond with the next fault and return None, or return a fault that applies to the normal response."""
        fault = self.kaggle.faults[call].popleft() if self.kaggle.faults[call] else Fault()
        if fault.dropped:
            self._drop()
            return None
        if fault.status and not fault.handled:
            self._bytes(fault.body, fault, fault.status)
            return None
        return fault

    def _call_before_response(self, name: str) -> None:
        with suppress(KeyError):
            self.kaggle.before_response.pop(name)()

    def _authorised(self) -> bool:
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {TOKEN}")

    def _stream(self, kernel: Kernel) -> None:
        """Send the log of a kernel as server-sent events, from its start until the kernel has ended."""
        self.kaggle.requests.append("logs")
        fault = self._fault("logs")
        if fault is None:
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with open(kernel.log) as log:
            while True:
                running = kernel.status() == "RUNNING"
                for line in log.read().splitlines(keepends=True):
                    event = json.dumps({"stream_name": "stdout", "time": 0, "data": line})
                    self.wfile.write(f"data: {event}\n\n".encode())
                self.wfile.flush()
                if fault.truncated:
                    self._drop()
                    return
                if not running:
                    self.wfile.write(b"data: END_OF_LOG\n\n")
                    return
                time.sleep(0.1)

    def _redirect(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://localhost{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: dict, status: int = 200) -> None:
        self._bytes(json.dumps(document).encode(), Fault(headers={"Content-Type": "application/json"}), status)

    def _bytes(self, content: bytes, fault: Fault = Fault(), status: int = 200) -> None:  # noqa: B008
        if fault.corrupted:
            start, end = len(content) // 2, len(content) // 2 + 64
            content = content[:start] + bytes(255 - byte for byte in content[start:end]) + content[end:]
        self.send_response(status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault.truncated:
            self.wfile.write(content[: len(content) // 2])
            return self._drop()
        self.wfile.write(content)
        return None

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)
