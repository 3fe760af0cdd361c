"""Output on terminals and into files whose encoding does not have all characters that the program prints."""

from __future__ import annotations

import codecs
import io
import sys

ASCII = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-~:+*#", strict=True)),
    **dict(zip("━╸╺▀", "=--#", strict=True)),
    "✓": "ok",
    "✗": "x",
    "→": "->",
    "–": "-",
    "…": "...",
    "±": "+-",
    "×": "x",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""What replaces a character; all others become a question mark."""


def replace_unknown_characters() -> None:
    """Let stdout and stderr replace the characters that their encoding does not have, instead of failing."""
    codecs.register_error("kaggle-digits", _to_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="kaggle-digits")


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that cannot be encoded, for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(char, "?") for char in error.object[error.start : error.end]), error.end
