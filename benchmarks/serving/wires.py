"""How each peer is asked for the same thing: a request of so many images as bytes, and its answer as scores."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import calls
import grpc
import lenet5
import numpy as np

from serving.v1 import prediction_pb2 as v1
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Wire:
    """One way to ask.

    Args:
        path: of the method or the URL.
        message: of so many images, as they are sent.
        read: the answer's scores, float32 [rows, 10].
        http: the content type of a plain POST; None: gRPC.
    """

    path: str
    message: Callable[[int], bytes]
    read: Callable[[bytes], Scores]
    http: str | None = None

    def ask(self, port: int, rows: int) -> Scores:
        """One call; raises OSError or grpc.RpcError where it fails."""
        message = self.message(rows)
        if self.http is None:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_unary(self.path)
                return self.read(call(message, timeout=10))
        headers = {"content-type": self.http}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path}", message, headers)
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 as above
            return self.read(response.read())


def _tensor(rows: int) -> bytes:
    image = v2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[rows, *lenet5.IMAGE.shape])
    pixels = lenet5.pixels(rows).tobytes()
    return v2.ModelInferRequest(model_name=lenet5.NAME, inputs=[image], raw_input_contents=[pixels]).SerializeToString()


def _elements(rows: int) -> bytes:
    image = v2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[rows])
    image.contents.bytes_contents.extend(row.tobytes() for row in lenet5.pixels(rows))
    return v2.ModelInferRequest(model_name=lenet5.NAME, inputs=[image]).SerializeToString()


def _inferred(answer: bytes) -> Scores:
    response = v2.ModelInferResponse.FromString(answer)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(-1, len(lenet5.LABELS))
    return np.array(response.outputs[0].contents.fp32_contents, np.float32).reshape(-1, len(lenet5.LABELS))


def _classified(answer: bytes) -> Scores:
    results = v1.ClassifyResponse.FromString(answer).results
    found = [{label.label: label.probability for label in result.labels} for result in results]
    return np.array([[row[label] for label in lenet5.LABELS] for row in found], np.float32)


def _pixels(rows: int) -> bytes:
    return lenet5.pixels(rows).tobytes()


def _floats(answer: bytes) -> Scores:
    return np.frombuffer(answer, np.float32).reshape(-1, len(lenet5.LABELS))


def _together(rows: int) -> bytes:
    return json.dumps({"images": base64.b64encode(_pixels(rows)).decode()}).encode()


def _one_by_one(rows: int) -> bytes:
    return json.dumps({"images": [base64.b64encode(row.tobytes()).decode() for row in lenet5.pixels(rows)]}).encode()


TENSOR = Wire(_INFER, _tensor, _inferred)
ELEMENTS = Wire(_INFER, _elements, _inferred)
CLASSIFY = Wire(calls.CLASSIFY, calls.request, _classified)
BODY = Wire("/", _pixels, _floats, "application/octet-stream")
JSON_BLOCK = Wire(
    "/predict", _together, lambda answer: _floats(base64.b64decode(json.loads(answer)["scores"])), "application/json"
)
JSON_LIST = Wire(
    "/predict",
    _one_by_one,
    lambda answer: _floats(b"".join(map(base64.b64decode, json.loads(answer)))),
    "application/json",
)
