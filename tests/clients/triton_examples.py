"""Runs in `.venv-clients`, not under pytest: does what Triton's own simple client examples do; prints what came back.

After simple_grpc_infer_client, simple_grpc_aio_infer_client, simple_grpc_async_infer_client,
simple_grpc_string_infer_client, simple_grpc_keepalive_client, grpc_explicit_int_content_client and
grpc_explicit_int8_content_client of github.com/triton-inference-server/client: the same models, calls and checks.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

LEFT = np.arange(16, dtype=np.int32).reshape(1, 16)
RIGHT = np.ones((1, 16), np.int32)


def pair(left=LEFT, right=RIGHT, datatype="INT32"):
    inputs = [triton.InferInput(name, [1, 16], datatype) for name in ("INPUT0", "INPUT1")]
    for given, array in zip(inputs, (left, right), strict=True):
        given.set_data_from_numpy(array)
    return inputs


def wanted():
    return [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]


def check(result):
    assert np.array_equal(result.as_numpy("OUTPUT0"), LEFT + RIGHT)
    assert np.array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)


def infer(client):
    for compression in (None, "gzip", "deflate"):
        check(
            client.infer("simple", pair(), outputs=wanted(), headers={"test": "1"}, compression_algorithm=compression)
        )
        check(client.infer("simple", pair(), outputs=None, compression_algorithm=compression))
    assert len(client.get_inference_statistics(model_name="simple").model_stats) == 1


def infer_async(client):
    answers = queue.Queue()
    for _ in range(2):
        client.async_infer("simple", pair(), lambda result, error: answers.put((result, error)), outputs=wanted())
    for _ in range(2):
        result, error = answers.get(timeout=20)
        assert error is None
        check(result)


async def infer_aio(address):
    async with triton_aio.InferenceServerClient(address) as client:
        check(await client.infer("simple", pair(), outputs=wanted()))
        assert len((await client.get_inference_statistics(model_name="simple")).model_stats) == 1
        for result in await asyncio.gather(client.infer("simple", pair()), client.infer("simple", pair())):
            check(result)


def strings(client):
    words = [np.array([str(x).encode() for x in array.ravel()], np.object_).reshape(1, 16) for array in (LEFT, RIGHT)]
    result = client.infer("simple_string", pair(*words, "BYTES"), outputs=wanted())
    assert [int(word) for word in result.as_numpy("OUTPUT0")[0]] == (LEFT + RIGHT)[0].tolist()
    assert [int(word) for word in result.as_numpy("OUTPUT1")[0]] == (LEFT - RIGHT)[0].tolist()
    for word in (b"he\x00llo", b"\x00\x01\x02\x03"):
        given = triton.InferInput("INPUT0", [1, 16], "BYTES")
        given.set_data_from_numpy(np.array([word] * 16, np.object_).reshape(1, 16))
        result = client.infer("simple_identity", [given], outputs=[triton.InferRequestedOutput("OUTPUT0")])
        assert result.as_numpy("OUTPUT0").tolist() == [[word] * 16]


def explicit(model, datatype):
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in (("INPUT0", LEFT), ("INPUT1", RIGHT)):
        given = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
        given.contents.int_contents[:] = array.ravel().tolist()
    for name in ("OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    return request


def refusal(stub, request):
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        return error.details()
    raise AssertionError("it was answered")


def main(address):
    keepalive = triton.KeepAliveOptions(keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20000)
    client = triton.InferenceServerClient(address, keepalive_options=keepalive)
    infer(client)
    infer_async(client)
    asyncio.run(infer_aio(address))
    strings(client)
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, datatype, kind in (("simple", "INT32", np.int32), ("simple_int8", "INT8", np.int8)):
            raw = stub.ModelInfer(explicit(model, datatype)).raw_output_contents
            assert np.array_equal(np.frombuffer(raw[0], kind), (LEFT + RIGHT)[0])
        mixed = explicit("simple", "INT32")
        mixed.raw_input_contents.append(LEFT.tobytes())
        versioned = explicit("simple_int8", "INT8")
        versioned.model_version = "wrong_specification"
        json.dump({"mixed": refusal(stub, mixed), "version": refusal(stub, versioned)}, sys.stdout)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
