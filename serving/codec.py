"""Messages of calotype.v1 to numpy and back; knows no model and decodes no image files.

The answer of a classifier is written here by hand, byte for byte as protobuf would: a message object for every label
of every row cost more than the model did.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from serving.errors import BadInput
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableSequence, Sequence

    from numpy.typing import NDArray

_CHANNELS: Final = (1, 3)
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPE: Final = {1: 0, 3: 2}
_WHITE: Final = 255

# On the wire: the number of a field times eight, plus 2 for what has a length and 5 for 32 bits.
_RESULTS: Final = bytes([v1.ClassifyResponse.RESULTS_FIELD_NUMBER << 3 | 2])
_LABELS: Final = bytes([v1.Classification.LABELS_FIELD_NUMBER << 3 | 2])
_LABEL: Final = bytes([v1.LabelScore.LABEL_FIELD_NUMBER << 3 | 2])
_PROBABILITY: Final = bytes([v1.LabelScore.PROBABILITY_FIELD_NUMBER << 3 | 5])
_FLOAT_BYTES: Final = 4
_VARINT_BASE: Final = 128
_MANY_ROWS: Final = 4  # from here on numpy's dozen calls are cheaper than a loop over labels


def pixels(block: v1.PixelBlock) -> NDArray[np.uint8]:
    """The pixels of a block, uint8 [rows, height, width, channels], read-only and without a copy.

    Raises:
        BadInput: no rows, no pixels, channels other than 1 and 3, or data of another length.
    """
    shape = (block.rows, block.height, block.width, block.channels)
    data = block.data
    if 0 in shape or block.channels not in _CHANNELS:
        raise BadInput(
            "A PixelBlock needs at least one row, a height, a width, and 1 or 3 channels. "
            f"Received: rows={shape[0]}, height={shape[1]}, width={shape[2]}, channels={shape[3]}"
        )
    expected_bytes = shape[0] * shape[1] * shape[2] * shape[3]
    if len(data) != expected_bytes:
        raise BadInput(
            f"PixelBlock.data must have rows * height * width * channels = {expected_bytes} bytes (uint8). "
            f"Received: {len(data)} bytes for rows={shape[0]}, height={shape[1]}, width={shape[2]}, "
            f"channels={shape[3]}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def pixel_block(rows: NDArray[np.uint8]) -> v1.PixelBlock:
    """The block of some pixels, uint8 [rows, height, width, channels]."""
    count, height, width, channels = rows.shape
    return v1.PixelBlock(rows=count, height=height, width=width, channels=channels, data=rows.tobytes())


def add_classifications(
    results: MutableSequence[v1.Classification],
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
    *,
    top_k: int,
) -> None:
    """Append the labels of each row, best first, equal ones in label order.

    Args:
        results: of a ClassifyResponse; filled in place, because protobuf copies finished messages.
        probabilities: float32 [rows, classes].
        labels: one per class.
        top_k: labels wanted per row; 0 is all.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    if top_k:
        order = order[:, :top_k]
    best = np.take_along_axis(probabilities, order, axis=1).tolist()
    for columns, values in zip(order.tolist(), best, strict=True):
        add = results.add().labels.add  # type: ignore[attr-defined]  # protobuf's own container
        for column, value in zip(columns, values, strict=True):
            add(label=labels[column], probability=value)


def classifications(probabilities: NDArray[np.float32], labels: tuple[str, ...], *, top_k: int) -> bytes:
    """The field `results` of a ClassifyResponse as bytes, what `add_classifications` makes; appended to a message.

    Args:
        probabilities: float32 [rows, classes].
        labels: one per class.
        top_k: labels wanted per row; 0 is all.
    """
    known = _score_bytes(labels)
    if known is None or probabilities.shape[1] != len(labels) or 0.0 in probabilities.ravel().tolist():
        response = v1.ClassifyResponse()  # protobuf leaves out what is empty or zero
        add_classifications(response.results, probabilities, labels, top_k=top_k)
        return response.SerializeToString()
    if known.even is not None and len(probabilities) >= _MANY_ROWS:
        return _even_rows(known.even, probabilities, top_k)
    return b"".join([_row(known.heads, row, top_k) for row in probabilities])


def _row(heads: tuple[bytes, ...], probabilities: NDArray[np.float32], top_k: int) -> bytes:
    order = (-probabilities).argsort(kind="stable")
    if top_k:
        order = order[:top_k]
    values = probabilities[order].astype("<f4", copy=False).tobytes()
    parts: list[bytes] = []
    at = 0
    for column in order.tolist():
        end = at + _FLOAT_BYTES
        parts += (heads[column], values[at:end])
        at = end
    body = b"".join(parts)
    return b"".join((_RESULTS, _varint(len(body)), body))


@dataclass(frozen=True, slots=True)
class _Scores:
    """A LabelScore of each label as bytes, up to its probability.

    Args:
        heads: by label.
        even: uint8 [labels, bytes] with room for the probability at the end; None: they are not of one length.
    """

    heads: tuple[bytes, ...]
    even: NDArray[np.uint8] | None


@lru_cache(maxsize=64)
def _score_bytes(labels: tuple[str, ...]) -> _Scores | None:
    """None: a label is empty, which protobuf leaves out."""
    if not all(labels):
        return None
    heads = []
    for label in labels:
        name = label.encode()
        score = _LABEL + _varint(len(name)) + name + _PROBABILITY
        heads.append(_LABELS + _varint(len(score) + _FLOAT_BYTES) + score)
    one_length = len({len(head) for head in heads}) == 1
    room = bytes(_FLOAT_BYTES)
    even = np.stack([np.frombuffer(head + room, np.uint8) for head in heads]) if one_length else None
    return _Scores(tuple(heads), even)


def _even_rows(scores: NDArray[np.uint8], probabilities: NDArray[np.float32], top_k: int) -> bytes:
    """All rows at once, where every label takes the same number of bytes."""
    order = (-probabilities).argsort(axis=1, kind="stable")
    if top_k:
        order = order[:, :top_k]
    rows, count = order.shape
    best = probabilities[np.arange(rows)[:, None], order].astype("<f4", copy=False)
    filled = scores[order]
    filled[:, :, -_FLOAT_BYTES:] = best.view(np.uint8).reshape(rows, count, _FLOAT_BYTES)
    body_bytes = count * scores.shape[1]
    head = _RESULTS + _varint(body_bytes)
    written = np.empty((rows, len(head) + body_bytes), np.uint8)
    written[:, : len(head)] = np.frombuffer(head, np.uint8)
    written[:, len(head) :] = filled.reshape(rows, body_bytes)
    return written.tobytes()


def _varint(number: int) -> bytes:
    """A whole number as protobuf writes it."""
    written = bytearray()
    while number >= _VARINT_BASE:
        written.append(number % _VARINT_BASE + _VARINT_BASE)
        number //= _VARINT_BASE
    written.append(number)
    return bytes(written)


def add_reconstructions(
    results: MutableSequence[v1.Reconstruction],
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    threshold: float | None,
    form: int,
) -> None:
    """Append the reconstruction of each row.

    Args:
        results: of a ReconstructResponse; filled in place.
        arrays: `error` float32 [rows], and `reconstruction` float32 [rows, height, width, channels] in 0…1,
            which ERROR_ONLY does not need.
        threshold: error above which a row is anomalous; None: none is.
        form: what to send of the images.
    """
    errors = arrays["error"].tolist()
    images = [b""] * len(errors) if form == v1.ERROR_ONLY else _images(arrays["reconstruction"], form)
    for error, image in zip(errors, images, strict=True):
        anomalous = threshold is not None and error > threshold
        results.add(error=error, anomalous=anomalous, image=image)  # type: ignore[attr-defined]  # as above


def _images(reconstruction: NDArray[np.float32], form: int) -> list[bytes]:
    rounded = np.rint(np.clip(reconstruction, 0.0, 1.0) * _WHITE).astype(np.uint8)
    return [png(row) if form == v1.PNG else row.tobytes() for row in rounded]


def png(row: NDArray[np.uint8]) -> bytes:
    """A PNG file of one image, uint8 [height, width, 1 or 3]."""
    height, width, channels = row.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPE[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each line starts with its filter: none
    lines[:, 1:] = row.reshape(height, width * channels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(_png_chunk(kind, body) for kind, body in chunks)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
