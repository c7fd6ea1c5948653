"""The Open Inference Protocol's messages and a client, built at run time; imports nothing of any server.

The messages live in a pool and a package of their own: two sets of package `inference` cannot live in one process, and
on the wire a package is nothing but a part of a method's path.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
_PACKAGE = "oip_conformance"

# Message -> its fields as `type name number`: `type[]` is repeated, `type{}` a map from strings, a name after `@` the
# oneof that the field is in. Messages inside messages are written on the outside: on the wire it is the same. Only the
# fields that the suite looks at; whatever else is sent stays unread.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready 1",
    "ModelReadyRequest": "string name 1, string version 2",
    "ModelReadyResponse": "bool ready 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name 1, string version 2, string[] extensions 3",
    "ModelMetadataRequest": "string name 1, string version 2",
    "TensorMetadata": "string name 1, string datatype 2, int64[] shape 3",
    "ModelMetadataResponse": (
        "string name 1, string[] versions 2, string platform 3, TensorMetadata[] inputs 4, TensorMetadata[] outputs 5, "
        "string{} properties 6"
    ),
    "InferParameter": (
        "bool bool_param 1 @value, int64 int64_param 2 @value, string string_param 3 @value, "
        "double double_param 4 @value, uint64 uint64_param 5 @value"
    ),
    "InferTensorContents": (
        "bool[] bool_contents 1, int32[] int_contents 2, int64[] int64_contents 3, uint32[] uint_contents 4, "
        "uint64[] uint64_contents 5, float[] fp32_contents 6, double[] fp64_contents 7, bytes[] bytes_contents 8"
    ),
    "InferInputTensor": (
        "string name 1, string datatype 2, int64[] shape 3, InferParameter{} parameters 4, "
        "InferTensorContents contents 5"
    ),
    "InferRequestedOutputTensor": "string name 1, InferParameter{} parameters 2",
    "ModelInferRequest": (
        "string model_name 1, string model_version 2, string id 3, InferParameter{} parameters 4, "
        "InferInputTensor[] inputs 5, InferRequestedOutputTensor[] outputs 6, bytes[] raw_input_contents 7"
    ),
    "InferOutputTensor": (
        "string name 1, string datatype 2, int64[] shape 3, InferParameter{} parameters 4, "
        "InferTensorContents contents 5"
    ),
    "ModelInferResponse": (
        "string model_name 1, string model_version 2, string id 3, InferParameter{} parameters 4, "
        "InferOutputTensor[] outputs 5, bytes[] raw_output_contents 6"
    ),
    # Triton's extensions; an enumeration is a number on the wire.
    "ModelStreamInferResponse": "string error_message 1, ModelInferResponse infer_response 2",
    "ModelConfigRequest": "string name 1, string version 2",
    "ModelInput": "string name 1, int32 data_type 2, int64[] dims 4",
    "ModelOutput": "string name 1, int32 data_type 2, int64[] dims 3",
    "ModelConfig": (
        "string name 1, string platform 2, int32 max_batch_size 4, ModelInput[] input 5, ModelOutput[] output 6, "
        "string backend 17"
    ),
    "ModelConfigResponse": "ModelConfig config 1",
    "ModelStatisticsRequest": "string name 1, string version 2",
    "StatisticDuration": "uint64 count 1, uint64 ns 2",
    "InferStatistics": (
        "StatisticDuration success 1, StatisticDuration fail 2, StatisticDuration queue 3, "
        "StatisticDuration compute_input 4, StatisticDuration compute_infer 5, StatisticDuration compute_output 6"
    ),
    "ModelStatistics": (
        "string name 1, string version 2, uint64 last_inference 3, uint64 inference_count 4, uint64 execution_count 5, "
        "InferStatistics inference_stats 6"
    ),
    "ModelStatisticsResponse": "ModelStatistics[] model_stats 1",
    "RepositoryIndexRequest": "string repository_name 1, bool ready 2",
    "ModelIndex": "string name 1, string version 2, string state 3, string reason 4",
    "RepositoryIndexResponse": "ModelIndex[] models 1",
    "RepositoryModelLoadRequest": "string repository_name 1, string model_name 2",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name 1, string model_name 2",
    "RepositoryModelUnloadResponse": "",
}

_FIELD = re.compile(r"(\w+)(\[\]|\{\})? (\w+) (\d+)(?: @(\w+))?")
_NUMBERS = descriptor_pb2.FieldDescriptorProto


def _add_field(message: Any, text: str, choices: dict[str, int]) -> None:
    match = _FIELD.fullmatch(text.strip())
    assert match is not None, text
    kind, many, name, number, choice = match.groups()
    field = message.field.add(name=name, number=int(number), label=_NUMBERS.LABEL_OPTIONAL)
    if many:
        field.label = _NUMBERS.LABEL_REPEATED
    if many == "{}":
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for part in (f"string key {1}", f"{kind} value {2}"):
            _add_field(entry, part, {})
        field.type, field.type_name = _NUMBERS.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    elif kind in _MESSAGES:
        field.type, field.type_name = _NUMBERS.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(_NUMBERS, f"TYPE_{kind.upper()}")
    if choice:
        if choice not in choices:
            choices[choice] = len(choices)
            message.oneof_decl.add(name=choice)
        field.oneof_index = choices[choice]


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="oip_conformance.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        choices: dict[str, int] = {}
        for field in filter(None, fields.split(",")):
            _add_field(message, field, choices)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES)
    return {each.name: message_factory.GetMessageClass(each) for each in found}


messages = _messages()

_STREAMED = {"ModelStreamInfer": ("ModelInferRequest", "ModelStreamInferResponse")}


class Server:
    """A server of the protocol: `server.ModelReady(name="simple")`.

    Args:
        target: host:port.
        seconds: for each call.
    """

    def __init__(self, target: str, seconds: float = 20.0) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(target, options=options)
        self._seconds = seconds

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __getattr__(self, method: str) -> Any:
        """The unary method of this name: takes a request, or its fields."""

        def call(request: Any = None, **fields: Any) -> Any:
            kind, answer = messages[f"{method}Request"], messages[f"{method}Response"]
            send = self._channel.unary_unary(f"/{SERVICE}/{method}", kind.SerializeToString, answer.FromString)
            return send(kind(**fields) if request is None else request, timeout=self._seconds)

        return call

    def stream(self, requests: Any) -> list[Any]:
        """The answers to some inference requests over one stream."""
        kind, answer = (messages[name] for name in _STREAMED["ModelStreamInfer"])
        path = f"/{SERVICE}/ModelStreamInfer"
        call = self._channel.stream_stream(path, kind.SerializeToString, answer.FromString)
        return list(call(iter(requests), timeout=self._seconds))
