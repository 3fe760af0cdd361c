"""Kaggle's credentials: where they are found, what is wrong with them, and how secrets are kept out of output."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggle_digits.errors import CredentialsError

HIDDEN = "***"
"""The text that replaces a secret."""

_SETTINGS = "https://www.kaggle.com/settings/api"
_GET_ONE = f"Create a token at {_SETTINGS} and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN to it"

CONTROL = re.compile(
    # Complete escape sequences, then all other control characters except newline and tab, and the characters that
    # change the direction of text.
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_SECRETS = (  # what is replaced is the text after the first group
    r"(\w://)[^\s/]*(?=@)",
    r"(\bhttps?://[^\s?\"'<>]+\?)[^\s\"'<>]+",
    # Parameters of a query without its address: urllib3 prints only the path and the query of a URL.
    r"(?i)(\b(?:X-(?:Goog|Amz)-[\w-]+|\w*Signature|\w*AccessId|\w*AccessKeyId|upload_id|\w*token)(?:=|%3D))"
    r"[^&\s\"'<>]+",
    r"(\b(?:Basic|Bearer) +)[\w+/=.~-]{16,}",
    r"()KGAT_\w+",
)


@dataclass(frozen=True)
class Credentials:
    """A user name with a key, an access token, or the file that Kaggle's client saved when the user logged in."""

    source: str  # the path of the file that contains them, or the names of environment variables
    file: Path | None = None  # None if the variables contain them
    username: str = ""
    key: str = ""
    token: str = ""


def find_credentials() -> list[Credentials]:
    """Return all credentials, first those that are used; the list ends before others that are not valid."""
    found: list[Credentials] = []
    try:
        found.extend(_all_credentials())
    except CredentialsError:
        if not found:
            raise
    if not found:
        problem = "There are no Kaggle credentials on this machine: neither a token nor a username with its key."
        raise CredentialsError(problem, f"{_GET_ONE}; without an account, use --competition rehearsal.")
    return found


def _all_credentials() -> Iterator[Credentials]:
    if token := os.environ.get("KAGGLE_API_TOKEN"):
        # Not Path.exists, which raises if there is no permission to search a folder.
        file = Path(token) if os.path.exists(token) else None
        yield _token(_read_text(file) if file else token, "KAGGLE_API_TOKEN", file)
    for file in _token_files():
        if os.path.exists(file) and (token := _read_text(file)):
            yield _token(token, str(file), file)
    file, variables = _key_file(), [os.environ.get(name) for name in ("KAGGLE_USERNAME", "KAGGLE_KEY")]
    stored = _read_json(file)
    username, key = variables[0] or stored.get("username"), variables[1] or stored.get("key")
    if username and key:
        source = "KAGGLE_USERNAME and KAGGLE_KEY" if all(variables) else str(file)
        yield Credentials(source, None if all(variables) else file, str(username), str(key))
    if os.path.exists(login := _in_home("credentials.json")):
        yield Credentials(str(login), login)


def _token(token: str, source: str, file: Path | None) -> Credentials:
    # An HTTP header cannot have other characters, and the error of the library would show the token.
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise CredentialsError(f"The content of {source} is not a valid token.", f"{_GET_ONE}.")
    return Credentials(source, file, token=token)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CredentialsError(f"{file} cannot be read as text.", f"{_GET_ONE}.") from error


def _read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty if there is no such file."""
    try:
        # As bytes, because a byte order mark says which encoding they have.
        return dict(json.loads(file.read_bytes())) if os.path.exists(file) else {}
    except (OSError, ValueError, TypeError) as error:
        raise CredentialsError(f"{file} cannot be read as a JSON object.", f"{_GET_ONE}.") from error


def _in_home(name: str) -> Path:
    return Path(os.path.expanduser("~/.kaggle"), name)


def _token_files() -> list[Path]:
    return [_in_home("access_token"), _in_home("access_token.txt")]


def _key_file() -> Path:
    if folder := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(folder, "kaggle.json")
    if sys.platform.startswith("linux") and not os.path.exists(_in_home("")):
        return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "kaggle", "kaggle.json")
    return _in_home("kaggle.json")


def rejected_credentials(reason: str) -> CredentialsError:
    """Return the error for credentials that Kaggle does not accept, for a `reason`."""
    used, *others = (credentials.source for credentials in find_credentials())
    instead = f", or remove {used} to use those from {others[0]}" if others else ""
    remedy = f"Create a new token at {_SETTINGS} and put it there{instead}."
    return CredentialsError(f"Kaggle does not accept the credentials from {used}: {reason}.", remedy)


def scrub(text: str) -> str:
    """Return a text without secrets, queries in URLs, and control characters other than newlines and tabs."""
    text = CONTROL.sub("", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern in _SECRETS:
        text = re.sub(pattern, rf"\1{HIDDEN}", text)
    return text


def _secrets() -> set[str]:
    """Return the tokens and keys of all sources, also of those that are not valid or not used."""
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    secrets = {os.environ.get("KAGGLE_KEY"), None if os.path.exists(token) else token}
    for file in (Path(token), *_token_files()):
        with suppress(CredentialsError):
            secrets.add(_read_text(file))
    for file in (_key_file(), _in_home("credentials.json")):
        with suppress(CredentialsError):
            stored = _read_json(file)
            secrets |= {stored.get(name) for name in ("key", "access_token", "refresh_token")}
    # A shorter string is not a key, and may be part of ordinary words.
    return {secret for secret in secrets if secret and len(secret) > 5}
