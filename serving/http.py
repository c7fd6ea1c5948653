"""The HTTP port: /metrics for Prometheus, /livez and /readyz for whoever watches the process; stdlib only.

Knows no model: readiness and metrics are functions that it is given.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, cast

from serving.authorization import HEADER, Grant, Tokens, metrics_for
from serving.errors import BadSetting, Unauthenticated

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from serving.tls import Tls

# Connections at a time: each has a thread. One more ends the oldest, so that no idle crowd keeps a probe out.
_MOST_CONNECTIONS = 128

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class HttpPort:
    """A small HTTP server in threads of its own.

    Args:
        host: address to listen on.
        port: port to listen on; 0 is any free one.
        metrics: the text for Prometheus.
        ready: whether calls may come.
        tokens: one of which /metrics needs, and tells only of its models; None: none.
        tls: certificates; if clients need one, then for /metrics. None: plain text.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        metrics: Callable[[], bytes],
        ready: Callable[[], bool],
        tokens: Tokens | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._address = (host, port)
        self._told = _Told(metrics, ready, tokens, tls)
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port bound; known after `start`."""
        return self._address[1] if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Bind, and answer from threads.

        Raises:
            BadSetting: the address cannot be bound.
        """
        host, port = self._address
        try:
            self._server = _Server(self._address, self._told)
        except OSError as error:
            raise BadSetting(
                f"Can't listen on {host}:{port} for HTTP: {error.strerror or error}. Choose another --http-port (0 is "
                "any free one) or --host, or stop what is using it."
            ) from error
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True
        ).start()

    def stop(self) -> None:
        """Stop answering and free the port; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the port was told at its making."""

    metrics: Callable[[], bytes]
    ready: Callable[[], bool]
    tokens: Tokens | None
    tls: Tls | None


class _Server(ThreadingHTTPServer):
    # Mutable, under `_lock`: `_open`, the connections, oldest first.

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS  # the default, 5, has a crowd of callers wait for seconds
    # A second server on the port must fail loudly; SO_REUSEADDR alone still allows a quick restart on Linux.
    allow_reuse_address = True
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], told: _Told) -> None:
        self.told = told
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Page)

    def server_bind(self) -> None:
        """Bind without the parent's reverse look-up of the host's name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, in the place of the oldest where there are too many."""
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
                with contextlib.suppress(OSError):  # it has just ended by itself
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)  # without TLS's good-bye, which may wait
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection, in its own thread: there the handshake holds nobody up."""
        if self.told.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_Page.timeout)
        context = self.told.tls.context()
        with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            with self._lock:  # wrapping took the connection out of `request`; who was ended meanwhile finds out
                if self._open.pop(request, 0) is None:
                    self._open[secured] = None
            try:
                secured.do_handshake()
                super().finish_request(secured, client_address)
            finally:
                with self._lock:
                    self._open.pop(secured, None)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not worth a traceback on stderr."""


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds that a silent client may keep a thread
    server_version = "calotype"
    sys_version = ""
    _pages: ClassVar = {"/metrics": "_metrics", "/livez": "_live", "/readyz": "_readiness"}

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        page = self._pages.get(path)
        if page is None:
            self._say(HTTPStatus.NOT_FOUND, b"There are /metrics, /livez and /readyz here.\n")
        else:
            getattr(self, page)()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Probes come every second; they are not logged."""

    def _metrics(self) -> None:
        told = self._told
        if told.tls is not None and told.tls.mutual and not cast("ssl.SSLSocket", self.connection).getpeercert():
            self._say(HTTPStatus.FORBIDDEN, b"/metrics needs a client certificate (--tls-client-ca).\n")
            return
        grant = Grant()
        if told.tokens is not None:
            try:
                grant = told.tokens.grant({HEADER: self.headers.get(HEADER, "")})
            except Unauthenticated as error:
                self._say(HTTPStatus.UNAUTHORIZED, f"{error}\n".encode(), challenge="Bearer")
                return
        self._say(HTTPStatus.OK, metrics_for(grant, told.metrics()), kind=_METRICS)

    @property
    def _told(self) -> _Told:
        return cast("_Server", self.server).told

    def _live(self) -> None:
        self._say(HTTPStatus.OK, b"live\n")

    def _readiness(self) -> None:
        ready = self._told.ready()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        self._say(status, b"ready\n" if ready else b"not ready\n")

    def _say(self, status: HTTPStatus, body: bytes, *, kind: str = _TEXT, challenge: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
