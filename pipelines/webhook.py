"""Tells a URL what came of a run, in the background: a receiver that is slow or dead hurts nobody.

The URL is a secret (many carry a token in their path): what is logged of it is its host.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSES_SECONDS = (1.0, 4.0, 15.0, 60.0)
LIMIT_SECONDS = 10.0
FAREWELL_SECONDS = 5.0
WAITING = 100
COME_AGAIN = {408, 425, 429}

Message = dict[str, Any]


def masked(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or '?'}/…"


def check(url: str) -> str:
    """The URL, when something can be sent to it.

    Raises:
        UsageError: it can't.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    if not good:
        raise UsageError("--webhook takes a URL that begins with http:// or https:// and names a host.")
    return url


class Webhook:
    """Posts messages as JSON, in order, each until it is taken or four more tries were in vain.

    A context manager: at its end what waits is given `farewell_seconds`. Mutable state: the queue and its thread.

    Args:
        url: where to; None: messages go nowhere.
        told: called with a line for the log when a message was lost.
        counted: called for each message with sent or lost.
        pauses_seconds: before each further try.
        limit_seconds: for one try, from the connection to the answer.
        farewell_seconds: for what waits at the end.
    """

    def __init__(
        self,
        url: str | None,
        *,
        told: Callable[[str], object],
        counted: Callable[[str], object],
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
        limit_seconds: float = LIMIT_SECONDS,
        farewell_seconds: float = FAREWELL_SECONDS,
    ) -> None:
        self._url = url
        self._told = told
        self._counted = counted
        self._pauses_seconds = pauses_seconds
        self._limit_seconds = limit_seconds
        self._farewell_seconds = farewell_seconds
        self._messages: queue.Queue[Message | None] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._url is not None:
            self._stopping.set()  # no more pauses: each message that waits has one more try
            self._put(None)
            self._thread.join(self._farewell_seconds)

    def send(self, message: Message) -> None:
        """Send a message, later; never waits."""
        if self._url is not None:
            self._put(message)

    def _put(self, message: Message | None) -> None:
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._lost(f"{WAITING} messages wait already")

    def _work(self) -> None:
        with httpx.Client(timeout=self._limit_seconds) as client:
            while (message := self._messages.get()) is not None:
                self._deliver(client, message)

    def _deliver(self, client: httpx.Client, message: Message) -> None:
        for pause_seconds in (*self._pauses_seconds, None):
            trouble, final = self._post(client, message)
            if trouble is None:
                self._counted("sent")
                return
            if final or pause_seconds is None or self._stopping.wait(pause_seconds):
                break
        self._lost(trouble or "")

    def _post(self, client: httpx.Client, message: Message) -> tuple[str | None, bool]:
        """Why a try was in vain, if it was, and whether another one would be too."""
        try:
            with client.stream("POST", str(self._url), json=message) as answer:  # its body, maybe endless, is not read
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__, False  # its text may hold the URL
        except ValueError:
            return "it has a figure that JSON can't tell", True
        if httpx.codes.is_success(status):
            return None, False
        return f"it answered {status}", httpx.codes.is_client_error(status) and status not in COME_AGAIN

    def _lost(self, why: str) -> None:
        self._counted("lost")
        self._told(f"the webhook at {masked(str(self._url))} did not take a message: {why}")
