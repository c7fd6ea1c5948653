"""Frames of HTTP/2 by hand, for clients that behave as no library would."""

from __future__ import annotations

DATA, HEAD, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One frame."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not indexed; both words shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")


def headers(path: bytes) -> bytes:
    """Of a good call of a method, none of them indexed."""
    named = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"))
    more = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))
    return b"".join(literal(name, value) for name, value in (*named, *more))


def frames(data: bytes) -> list[tuple[int, int, int]]:
    """Kind, flags and stream of each whole frame in `data`."""
    found, at = [], 0
    while at + 9 <= len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        found.append((data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")))
        at += 9 + length
    return found


HEADERS = headers(b"/calotype.v1.PredictionService/Classify")
# Two bytes that are no request.
MESSAGE = b"\0\0\0\0\x02\x0a\0"
