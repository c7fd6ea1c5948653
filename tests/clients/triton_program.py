"""Runs in `.venv-clients`, not under pytest: calls a server by tritonclient, prints what came back as JSON."""

from __future__ import annotations

import json
import queue
import struct
import sys
import zlib

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def tensor(name, array, datatype):
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def png(row):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = row.shape
    lines = b"".join(b"\0" + row[line].tobytes() for line in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def main(address, path):
    block = np.load(path)
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "calotype"
    said = {}
    try:
        client.get_model_metadata("nobody")
    except InferenceServerException as error:
        said["unknown"] = error.message()
    assert client.get_model_metadata("digits").inputs[0].datatype == "UINT8"
    said["max_batch_size"] = client.get_model_config("digits").config.max_batch_size
    said["index"] = [model.name for model in client.get_model_repository_index().models]
    client.unload_model("plain")
    client.load_model("plain")
    assert len(client.get_inference_statistics("digits").model_stats) == 1

    image = [tensor("image", block, "UINT8")]
    said["raw"] = client.infer("digits", image, request_id="r").as_numpy("probabilities").tolist()
    said["plain"] = client.infer("plain", image).as_numpy("probabilities").tolist()
    encoded = np.array([png(row) for row in block], dtype=np.object_)
    answer = client.infer("digits", [tensor("image", encoded, "BYTES")])
    said["files"] = answer.as_numpy("probabilities").tolist()
    best = triton.InferRequestedOutput("probabilities", class_count=1)
    classes = client.infer("digits", image, outputs=[best]).as_numpy("probabilities")
    said["best"] = classes[0][0].decode()

    request = triton.service_pb2.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="UINT8", shape=block.shape)
    request.inputs[0].contents.uint_contents.extend(block.ravel().tolist())
    raw = client._client_stub.ModelInfer(request).raw_output_contents[0]
    said["typed"] = np.frombuffer(raw, np.float32).reshape(len(block), -1).tolist()

    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("digits", image, request_id="s")
    said["stream"] = answers.get(timeout=20)[0].as_numpy("probabilities").tolist()
    client.async_stream_infer("nobody", image, request_id="t")
    said["stream_error"] = answers.get(timeout=20)[1].message()
    client.stop_stream()
    client.close()
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
