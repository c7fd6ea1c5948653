"""Log lines: an event's name with its fields, as key=value text or as JSON, on stderr.

Rooms call `event(logger, "model_available", model=..., version=...)`; how lines look is decided here once.
Importing this module configures nothing.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "calotype"

# Most words of a line, which is written at every call; whatever else is plain is found out with more effort.
_PLAIN: Final = re.compile(r"[!#-<>-~]+")

# Of a sentence or a word that a caller chose: a status travels as headers, for which 8 KiB are the limit, and gRPC
# writes a byte that is not ASCII as three.
_MOST_TEXT_BYTES = 1024


def logger(room: str) -> logging.Logger:
    """The logger of one room, below the one that `configure` sets up."""
    return logging.getLogger(f"{ROOT}.{room}")


def event(log: logging.Logger, name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one event with its fields; nothing is formatted when nobody listens.

    Args:
        log: from `logger`.
        name: what happened, in snake_case.
        level: of the `logging` module.
        fields: what an operator would search for; `error=` takes an exception, whose sentence is logged.
    """
    if log.isEnabledFor(level):
        # As `log.log` would, but without a walk up the stack for the caller's line, which no form of ours writes.
        log.handle(log.makeRecord(log.name, level, "", 0, name, (), None, extra={"fields": fields}))


def configure(*, form: str, level: str, stream: TextIO | None = None) -> None:
    """Send events of `level` and above to `stream`, replacing what an earlier call set up.

    Args:
        form: text or json.
        level: debug, info, warning or error.
        stream: stderr unless told.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def cut(text: str) -> str:
    """`text`, or so much of its beginning as a status or a line of the log has room for."""
    if 4 * len(text) <= _MOST_TEXT_BYTES:  # no character has more bytes
        return text
    data = text.encode(errors="replace")
    if len(data) <= _MOST_TEXT_BYTES:
        return text
    return data[:_MOST_TEXT_BYTES].decode(errors="ignore") + f" … ({len(data)} bytes)"


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO model_available model=digits version=3`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; values with spaces, quotes or equal signs are quoted as JSON strings."""
        words = [_time(record.created), record.levelname, record.getMessage()]
        words += [f"{key}={_word(value)}" for key, value in _fields(record).items()]
        return " ".join(words)


class JsonLines(logging.Formatter):
    """One JSON object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """The event's own fields beside `time`, `level` and `event`."""
        line = {"time": _time(record.created), "level": record.levelname, "event": record.getMessage()}
        return json.dumps(line | _fields(record), default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    written = dict(fields)
    if record.exc_info:
        written["traceback"] = logging.Formatter().formatException(record.exc_info)
    return written


def _word(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    plain = text != "" and text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)


def _time(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
