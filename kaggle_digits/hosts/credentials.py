"""Find Kaggle's credentials the way the client does, and remove secrets from output."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from kaggle_digits.errors import CredentialsError

HIDDEN = "***"
"""The text that replaces a secret."""
SHORTEST_SECRET = 6
"""Minimum length of a secret in characters. A shorter string is not a key, and may be part of ordinary words."""

_SETTINGS = "https://www.kaggle.com/settings/api"
_GET_CREDENTIALS = (
    f"Create a token at {_SETTINGS} and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN to it."
)
_VARIABLES = {"username": "KAGGLE_USERNAME", "key": "KAGGLE_KEY"}

CONTROL = re.compile(
    # Complete escape sequences, then all other control characters except newline and tab, and the characters that
    # change the direction of text.
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_SECRET_PATTERNS = (
    (re.compile(r"(\w://)[^\s/]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(\bhttps?://[^\s?\"'<>]+\?)[^\s\"'<>]+"), rf"\1{HIDDEN}"),
    # Parameters of a query without its address: urllib3 prints only the path and the query of a URL.
    (
        re.compile(
            r"\b(X-(?:Goog|Amz)-[\w-]+|\w*Signature|\w*AccessId|\w*AccessKeyId|upload_id|\w*token)(=|%3D)[^&\s\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(Basic|Bearer) +[\w+/=.~-]{16,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"KGAT_\w+"), HIDDEN),
)


def credential_source() -> str:
    """Return the source whose credentials the client uses, the first that has any; else `CredentialsError`."""
    for source in credential_sources():
        return source
    folder = _kaggle_json().parent
    if os.path.isfile(folder):
        raise CredentialsError(
            f"{folder} is a file, not a folder with kaggle.json inside.",
            "Make it such a folder, or set KAGGLE_CONFIG_DIR to another one.",
        )
    if os.path.exists(folder / "kaggle.json.txt"):
        raise CredentialsError(f"{folder / 'kaggle.json.txt'} has a wrong name.", "Rename it to kaggle.json.")
    raise CredentialsError(
        "There are no Kaggle credentials on this machine.",
        f"{_GET_CREDENTIALS[:-1]}; without an account, use --competition rehearsal.",
    )


def credential_sources() -> Iterator[str]:
    """Yield the sources that have credentials, in the client's order; `CredentialsError` if one is not valid.

    The client uses the first. It prefers a token to a key, even if the token is not valid.
    """
    token = os.environ.get("KAGGLE_API_TOKEN")
    if token:
        is_path = len(token) < 256 and os.path.exists(token)
        _check_token(_read_text(Path(token)).strip() if is_path else token, "KAGGLE_API_TOKEN")
        yield "KAGGLE_API_TOKEN"
    for path in _token_files():
        # Not Path.exists, which raises if there is no permission to search the home folder.
        if os.path.exists(path) and (text := _read_text(path).strip()):
            _check_token(text, str(path))
            yield str(path)
    variables = {name: variable for name, variable in _VARIABLES.items() if os.environ.get(variable)}
    key_file = _kaggle_json()
    given = dict.fromkeys(_stored_key(), str(key_file)) | variables
    if len(given) == 2:
        yield "KAGGLE_USERNAME and KAGGLE_KEY" if len(variables) == 2 else str(key_file)
    if os.path.exists(_oauth_file()):
        yield str(_oauth_file())
    elif len(given) == 1:
        ((half, source),) = given.items()
        missing = "key" if half == "username" else "username"
        raise CredentialsError(f"{source} has a Kaggle {half} but no {missing}.", _GET_CREDENTIALS)


def credential_file(source: str) -> Path | None:
    """Return the file that contains the credentials of a source, or None if environment variables do."""
    # An environment variable may contain the path of the file.
    path = Path(os.environ.get(source, source))
    return path if path.is_file() else None


def is_readable_by_others(path: Path) -> bool:
    """Return whether the group or other users of this machine may read a file."""
    return bool(path.stat().st_mode & 0o044)


@contextmanager
def set_variables(changes: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block, and restore them."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ |= changes
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def client_variables() -> dict[str, str]:
    """Return the variables that the client needs to be imported, with the user and the key of the key file.

    The client cannot read a key file with a byte order mark. If there is none, the client creates its folder and
    fails if it cannot, as in many containers, even if environment variables contain the credentials.
    """
    variables = {} if os.path.exists(_kaggle_json()) else {"KAGGLE_CONFIG_DIR": os.devnull}
    # If one of these is set during the import, the client prints tokens and Authorization headers.
    variables |= {name: "" for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    with suppress(CredentialsError):  # `credential_source` raises it if this file is used
        stored = _stored_key()
        variables |= {v: stored[n] for n, v in _VARIABLES.items() if n in stored and not os.environ.get(v)}
    return variables


@contextmanager
def usable_home() -> Iterator[None]:
    """Give the client another home if it cannot search the real one for a token, as it does at every request."""
    try:
        _token_files()[0].exists()
        changes = {}
    except OSError:
        changes = {"HOME": os.devnull}
    with set_variables(changes):
        yield


def rejected_credentials(reason: str) -> CredentialsError:
    """Return the error for credentials that Kaggle does not accept, for a `reason`."""
    sources: list[str] = []
    # Errors of sources that the client does not use do not matter here.
    with suppress(CredentialsError):
        sources += credential_sources()
    used, *others = sources or ["this machine"]
    problem = f"Kaggle does not accept the credentials from {used}: {reason}"
    remedy = f"Create a new token at {_SETTINGS} and put it there"
    if others:
        away = f"unset {used}" if used in os.environ else f"remove {used}"
        problem += f"; those from {others[0]} were not used"
        remedy += f", or {away} to use those from {others[0]}"
    return CredentialsError(f"{problem}.", f"{remedy}.")


def scrub(text: str) -> str:
    """Return a text without secrets and control characters; newlines and tabs are kept.

    It removes all tokens and keys that are stored on this machine, passwords and queries in URLs, and escape
    sequences for terminals.
    """
    text = CONTROL.sub("", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _SECRET_PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets() -> set[str]:
    """Return the tokens and keys of all sources, and the Base64 text of each key that is sent in HTTP headers."""
    environment = os.environ.get
    users, keys = {environment("KAGGLE_USERNAME")}, {environment("KAGGLE_KEY")}
    tokens: set[str | None] = set()
    given = Path(environment("KAGGLE_API_TOKEN") or "")
    for path in (given, Path(environment("KAGGLE_API_V1_TOKEN") or ""), *_token_files()):
        with suppress(OSError, ValueError):
            tokens.add(path.read_text(encoding="utf-8").strip())
    with suppress(OSError, ValueError):
        tokens.add(None if given.exists() else environment("KAGGLE_API_TOKEN"))
    for path in (_kaggle_json(), _folder() / "kaggle.json", _oauth_file()):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            stored = json.loads(path.read_bytes())
            users.add(stored.get("username"))
            keys.add(stored.get("key"))
            tokens |= {stored.get("access_token"), stored.get("refresh_token")}
    pairs = {f"{user}:{key}" for user, key in product(users, keys) if key}
    found = keys | tokens | {base64.b64encode(pair.encode()).decode() for pair in pairs}
    return {secret for secret in found if isinstance(secret, str) and len(secret) >= SHORTEST_SECRET}


def _check_token(text: str, source: str) -> None:
    """Raise if the client would fail at a token, because its error message would contain the token."""
    if not re.fullmatch(r"[\x21-\x7e]{1,250}", text):
        raise CredentialsError(f"The content of {source} is not a valid token.", _GET_CREDENTIALS)


def _folder() -> Path:
    return Path(os.path.expanduser("~/.kaggle"))


def _token_files() -> tuple[Path, ...]:
    return _folder() / "access_token", _folder() / "access_token.txt"


def _oauth_file() -> Path:
    return _folder() / "credentials.json"


def _kaggle_json() -> Path:
    """Return the path where the client looks for the key file."""
    folder = _folder()
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    elif sys.platform.startswith("linux") and not os.path.exists(folder):
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "kaggle"
    return folder / "kaggle.json"


def _stored_key() -> dict[str, str]:
    """Return ``username`` and ``key``, as far as the key file has them; `CredentialsError` if it is not valid."""
    path = _kaggle_json()
    if not os.path.exists(path):
        return {}
    try:
        # As bytes, because a byte order mark says which encoding they have.
        stored = json.loads(path.read_bytes())
        return {name: str(stored[name]) for name in _VARIABLES if stored.get(name)}
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}.", _GET_CREDENTIALS) from error
    except (ValueError, AttributeError):
        raise CredentialsError(f"{path} is not a JSON object.", _GET_CREDENTIALS) from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path} cannot be read as text.", _GET_CREDENTIALS) from error
