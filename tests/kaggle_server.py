"""A fake Kaggle server for the real client, with the part of the API that the client uses, and with faults."""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMPETITION = "digit-recognizer"
USER, KEY, TOKEN = "ada", "0123456789abcdef", "KGAT_feedc0de"
DATE = "2026-11-24T10:00:00Z"


@dataclass
class Fault:
    """A fault of one request.

    Attributes
    ----------
    status, body, headers
        The response. With a status, the request is not handled, unless `handled` is set.
    response_lost : bool
        The request is handled, and the connection is closed without a response.
    handled : bool
        The request is handled, although the response has `status`.
    dropped : bool
        The connection is closed, and the request is not handled.
    truncated : bool
        The response has a correct Content-Length, but only half of its body.
    corrupted : bool
        The response has the correct length, but some of its bytes are changed.
    """

    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    response_lost: bool = False
    handled: bool = False
    dropped: bool = False
    truncated: bool = False
    corrupted: bool = False


def error(status: int, message: str, handled: bool = False, **headers: str) -> Fault:
    """Return a fault with an error response in Kaggle's format."""
    body = json.dumps({"code": status, "message": message}).encode()
    return Fault(status, body, {"Content-Type": "application/json"} | headers, handled=handled)


class KaggleServer:
    """A fake Kaggle server for one competition, at the address `url`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.submissions: list[dict] = []
        self.limits = {"numToday": 0, "numTotal": 0, "numAllowedNow": 10, "limitedByTotal": False}
        self.board: list[tuple[int, str, str, str]] = []
        self.scoring: deque[dict] = deque()
        self.uploads: dict[str, bytes] = {}
        self.file_names: dict[str, str] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[str] = []
        self.closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kaggle": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next requests to `call` fail with these faults, in this order."""
        self.faults[call].extend(faults)

    def bundle(self) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.files.items():
                archive.writestr(name, content)
        return stream.getvalue()

    def count(self, call: str) -> int:
        return self.requests.count(call)

    # The methods of the API. The last part of the URL is the name of the method.

    def IntrospectToken(self, request: dict) -> dict:  # noqa: N802
        return {"active": request["token"] == TOKEN, "username": USER if request["token"] == TOKEN else ""}

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
        self.submissions.insert(
            0,
            {
                "ref": ref,
                "date": DATE,
                "description": request.get("submissionDescription", ""),
                "fileName": self.file_names[request["blobFileTokens"]],
                "teamName": "Ada's team",
                "submittedBy": USER,
                "content": self.uploads[request["blobFileTokens"]],
                **outcome,
            },
        )
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
        if call != "IntrospectToken" and not self._authorised():
            return self._json({"code": 401, "message": "Unauthenticated"}, 401)
        request = json.loads(body or b"{}")
        if request.get("competitionName", COMPETITION) != COMPETITION:
            return self._json({"code": 404, "message": "Competition not found"}, 404)
        if call == "DownloadDataFiles":
            return self._redirect(f"/storage/{COMPETITION}.zip")
        if call == "DownloadDataFile":
            return self._redirect(f"/storage/{request['fileName']}")
        if call == "DownloadLeaderboard":
            rows = [
                f'{rank},{rank},"{team}",{DATE},{score},1,{user}' for rank, team, score, user in self.kaggle.board
            ]
            header = "Rank,TeamId,TeamName,LastSubmissionDate,Score,SubmissionCount,TeamMemberUserNames"
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                archive.writestr("board.csv", ("\ufeff" + "\r\n".join([header, *rows])).encode())
            return self._bytes(stream.getvalue(), fault)
        answer = getattr(self.kaggle, call)(request)
        if fault.response_lost:
            return self._drop()
        if fault.handled:
            return self._bytes(fault.body, fault, fault.status)
        return self._json(answer)

    def do_GET(self) -> None:
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        self.kaggle.requests.append(name)
        fault = self._fault(name)
        if fault is not None:
            content = self.kaggle.bundle() if name == f"{COMPETITION}.zip" else self.kaggle.files[name]
            self._bytes(content, fault)

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

    def _authorised(self) -> bool:
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {TOKEN}")

    def _redirect(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://localhost{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: dict, status: int = 200) -> None:
        self._bytes(json.dumps(document).encode(), Fault(headers={"Content-Type": "application/json"}), status)

    def _bytes(self, content: bytes, fault: Fault | None = None, status: int = 200) -> None:
        fault = fault or Fault()
        if fault.corrupted:
            middle = len(content) // 2
            content = (
                content[:middle] + bytes(255 - b for b in content[middle : middle + 64]) + content[middle + 64 :]
            )
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
