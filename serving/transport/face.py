"""The small face that every transport shows to the composition root.

A transport is built from a table of `serving.calls.Method`s, starts nothing in its constructor, binds its
port in `start` and runs its own thread. It knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serving.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import grpc

    from serving.calls import Method
    from serving.interceptors import Desk

    Form = Callable[[Iterable[Method], Desk, "Options"], "Transport"]
    """What makes a transport: of methods, the desk where calls are signed out, and how to listen."""

MEGABYTE = 1024 * 1024

# Pings without data are welcome this often, and also between calls: balancers and idle clients send them.
_MIN_PING_INTERVAL_MS = 10_000

# A caller that vanished without a word is noticed after a minute and a bit; one that is there and idle may come back by
# a new connection; and nobody stays on one server for ever, so that balancers can spread callers over new servers.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_CONNECTION_IDLE_MS = 15 * 60_000
_CONNECTION_AGE_MS = 2 * 3600_000

# Calls of one connection at once; more wait in their client. A limit of memory, not of speed.
_CONNECTION_CALLS = 10_000

# What the C core takes of a call before anybody asks for it. By itself it measures the connection and takes a hundred
# times as much of streams that nobody reads; a round trip of 20 ms leaves a call 100 MB/s.
_READ_AHEAD_BYTES = 2 * MEGABYTE

# Of one stream's requests and answers that are in the server: whoever reads none of its answers costs no more.
_STREAM_BYTES = 8 * MEGABYTE

# Messages a little over the limit are read, so that they can be answered by a sentence that names it.
_MESSAGE_MARGIN_BYTES = 16 * MEGABYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a transport is told about the wire.

    Args:
        host: address to listen on.
        port: port to listen on; 0 is any free one.
        max_message_bytes: largest message sent; a little more is taken, and refused by the desk.
        max_streams: streams of requests open at once, over all connections; more are refused.
        max_stream_requests: requests of one stream in work at once; the stream is not read further meanwhile.
        max_stream_bytes: likewise, of those requests and of answers not sent yet; one message more is possible.
        credentials: TLS; None is plain text.
        shared_port: whether other workers of this server listen on the port too.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    max_message_bytes: int = 64 * MEGABYTE
    max_streams: int = 256
    max_stream_requests: int = 64
    max_stream_bytes: int = _STREAM_BYTES
    credentials: grpc.ServerCredentials | None = None
    shared_port: bool = False


class Transport(Protocol):
    """A running gRPC front."""

    @property
    def port(self) -> int:
        """The port bound; known after `start`."""
        ...

    def start(self) -> None:
        """Bind and answer calls from a thread of the transport's own.

        Raises:
            BadSetting: the address cannot be bound.
        """
        ...

    def set_health(self, name: str, *, serving: bool) -> None:
        """Say in grpc.health.v1 whether a model, or "": the server with its services, serves; any thread may."""
        ...

    def drain_and_stop(self, grace_seconds: float) -> None:
        """Say NOT_SERVING everywhere, take no new calls, let accepted ones finish for so long, then stop.

        Blocks until it has stopped; may be called twice.
        """
        ...


def listen_address(options: Options) -> str:
    """Where to listen, as gRPC writes it."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{host}:{options.port}"


def cannot_listen(address: str) -> BadSetting:
    """The error for an address that cannot be bound."""
    return BadSetting(
        f"Cannot listen on {address}: the port is in use, or the address is not of this machine. "
        "Choose another --port (0 is any free one) or --host."
    )


def channel_options(options: Options) -> list[tuple[str, int]]:
    """What every form tells the C core."""
    return [
        ("grpc.so_reuseport", int(options.shared_port)),  # a second server must fail, not share the first one's callers
        ("grpc.max_receive_message_length", min(options.max_message_bytes + _MESSAGE_MARGIN_BYTES, 2**31 - 1)),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.max_connection_idle_ms", _CONNECTION_IDLE_MS),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_concurrent_streams", _CONNECTION_CALLS),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _READ_AHEAD_BYTES),
    ]
