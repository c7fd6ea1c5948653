"""Messages of calotype.v1 to numpy and back; knows no model and decodes no image files.

The answer of a classifier is written here by hand, byte for byte as protobuf would: a message object for every label
of every row cost more than the model did.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Final

import numpy as np

from serving import wire
from serving.errors import BadInput
from serving.v1 import prediction_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

    from numpy.typing import NDArray

CHANNELS: Final = (1, 3)
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPE: Final = {1: 0, 3: 2}
_WHITE: Final = 255

# On the wire: the number of a field times eight, plus 2 for what has a length and 5 for 32 bits.
_RESULTS: Final = bytes([v1.ClassifyResponse.RESULTS_FIELD_NUMBER << 3 | 2])
_LABELS: Final = bytes([v1.Classification.LABELS_FIELD_NUMBER << 3 | 2])
_LABEL: Final = bytes([v1.LabelScore.LABEL_FIELD_NUMBER << 3 | 2])
_PROBABILITY: Final = bytes([v1.LabelScore.PROBABILITY_FIELD_NUMBER << 3 | 5])
_FLOAT_BYTES: Final = 4
_PACK: Final = struct.Struct("<f").pack
_MANY_ROWS: Final = 4  # from here on numpy's dozen calls are cheaper than a loop over labels
_FEW_LABELS: Final = 64  # up to here Python sorts a row, or two or three, sooner than numpy is called


def pixels(block: v1.PixelBlock) -> NDArray[np.uint8]:
    """The pixels of a block, uint8 [rows, height, width, channels], read-only and without a copy.

    Raises:
        BadInput: no rows, no pixels, channels other than 1 and 3, or data of another length.
    """
    shape = (block.rows, block.height, block.width, block.channels)
    data = block.data
    if 0 in shape or block.channels not in CHANNELS:
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


class Classifications:
    """Writes the field `results` of a ClassifyResponse, an element per row: what `add_classifications` makes.

    They are bytes, to be appended to a message. It is called for all the rows of a model call at once.

    Args:
        labels: one per class.
        top_k: labels wanted per row; 0 is all.
    """

    __slots__ = ("_labels", "_scores", "_top_k")

    def __init__(self, labels: tuple[str, ...], *, top_k: int) -> None:
        self._labels = labels
        self._top_k = top_k
        self._scores = _score_bytes(labels)

    def __call__(self, probabilities: NDArray[np.float32]) -> list[bytes]:
        """One element of the field per row of float32 [rows, classes]."""
        scores, top_k = self._scores, self._top_k
        rows, count = probabilities.shape
        if scores is None or count != len(self._labels):
            return [self._by_protobuf(row) for row in probabilities]
        if rows < _MANY_ROWS and count <= _FEW_LABELS:
            written = _few_rows(scores.heads, probabilities, top_k)
            if written is not None:
                return written
        if not probabilities.all():  # protobuf leaves out what is zero
            return [
                _rows(scores.heads, row[None], top_k)[0] if row.all() else self._by_protobuf(row)
                for row in probabilities
            ]
        if scores.even is not None and rows >= _MANY_ROWS:
            return _even_rows(scores.even, probabilities, top_k)
        return _rows(scores.heads, probabilities, top_k)

    def _by_protobuf(self, row: NDArray[np.float32]) -> bytes:
        response = v1.ClassifyResponse()
        add_classifications(response.results, row[None], self._labels, top_k=self._top_k)
        return response.SerializeToString()


@dataclass(frozen=True, slots=True)
class _Scores:
    """A LabelScore of each label as bytes, up to its probability.

    Args:
        heads: by label.
        even: uint8 [labels, bytes] with room for the probability at the end; None: they are not of one length.
    """

    heads: tuple[bytes, ...]
    even: NDArray[np.uint8] | None


def _score_bytes(labels: tuple[str, ...]) -> _Scores | None:
    """None: a label is empty, which protobuf leaves out."""
    if not all(labels):
        return None
    heads = []
    for label in labels:
        name = label.encode()
        score = _LABEL + wire.varint(len(name)) + name + _PROBABILITY
        heads.append(_LABELS + wire.varint(len(score) + _FLOAT_BYTES) + score)
    one_length = len({len(head) for head in heads}) == 1
    room = bytes(_FLOAT_BYTES)
    even = np.stack([np.frombuffer(head + room, np.uint8) for head in heads]) if one_length else None
    return _Scores(tuple(heads), even)


def _few_rows(heads: tuple[bytes, ...], probabilities: NDArray[np.float32], top_k: int) -> list[bytes] | None:
    """Rows one by one, with one call of numpy; None: there is a zero or a NaN among them."""
    written = []
    for values in probabilities.tolist():
        total = sum(values)
        if 0.0 in values or total != total:  # noqa: PLR0124 - so is a NaN
            return None
        columns = sorted(range(len(values)), key=values.__getitem__, reverse=True)  # which leaves equal ones in order
        body = b"".join([heads[column] + _PACK(values[column]) for column in columns[: top_k or None]])
        written.append(b"".join((_RESULTS, wire.varint(len(body)), body)))
    return written


def _rows(heads: tuple[bytes, ...], probabilities: NDArray[np.float32], top_k: int) -> list[bytes]:
    order = (-probabilities).argsort(axis=1, kind="stable")
    if top_k:
        order = order[:, :top_k]
    best = probabilities[np.arange(len(order))[:, None], order].astype("<f4", copy=False).tobytes()
    written, at = [], 0
    for columns in order.tolist():
        parts: list[bytes] = []
        for column in columns:
            parts += (heads[column], best[at : at + _FLOAT_BYTES])
            at += _FLOAT_BYTES
        body = b"".join(parts)
        written.append(b"".join((_RESULTS, wire.varint(len(body)), body)))
    return written


def _even_rows(scores: NDArray[np.uint8], probabilities: NDArray[np.float32], top_k: int) -> list[bytes]:
    """All rows at once, where every label takes the same number of bytes."""
    order = (-probabilities).argsort(axis=1, kind="stable")
    if top_k:
        order = order[:, :top_k]
    rows, count = order.shape
    best = probabilities[np.arange(rows)[:, None], order].astype("<f4", copy=False)
    filled = scores[order]
    filled[:, :, -_FLOAT_BYTES:] = best.view(np.uint8).reshape(rows, count, _FLOAT_BYTES)
    body_bytes = count * scores.shape[1]
    head = _RESULTS + wire.varint(body_bytes)
    body = filled.tobytes()
    return [head + body[start : start + body_bytes] for start in range(0, rows * body_bytes, body_bytes)]


class Reconstructions:
    """Writes the field `results` of a ReconstructResponse, as `Classifications` does.

    Args:
        threshold: error above which a row is anomalous; None: none is.
        form: what to send of the images.
    """

    __slots__ = ("_form", "_threshold")

    def __init__(self, *, threshold: float | None, form: int) -> None:
        self._threshold = threshold
        self._form = form

    def __call__(self, errors: NDArray[np.float32], reconstruction: NDArray[np.float32] | None = None) -> list[bytes]:
        """One element of the field per row.

        Args:
            errors: float32 [rows].
            reconstruction: float32 [rows, height, width, channels] in 0…1, which ERROR_ONLY does not need.
        """
        images = repeat(b"") if reconstruction is None else _images(reconstruction, self._form)
        return [self._row(error, image) for error, image in zip(errors.tolist(), images, strict=False)]

    def _row(self, error: float, image: bytes) -> bytes:
        anomalous = self._threshold is not None and error > self._threshold
        result = v1.Reconstruction(error=error, anomalous=anomalous, image=image)
        return v1.ReconstructResponse(results=(result,)).SerializeToString()


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
