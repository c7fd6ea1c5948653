"""Server reflection, v1 and v1alpha, as a stream's methods, so that grpcurl and its like need no proto files.

grpcio-reflection has v1alpha only. The two differ in nothing but the name of their package, so its messages are those
of v1 too, and the description of v1 is made from its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from serving.calls import Method, answered

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from serving.calls import Call, Status

_ALPHA: Final = "v1alpha"
NAMES: Final = (reflection.SERVICE_NAME.replace(_ALPHA, "v1"), reflection.SERVICE_NAME)


def methods(services: Iterable[str]) -> tuple[Method, ...]:
    """Reflection over some services and itself, as a transport serves it."""
    _describe_v1()
    servicer = reflection.ReflectionServicer((*services, *NAMES))

    def start(request: Any, _call: Call) -> Future[Any]:
        # The servicer makes nothing of its context: it is the synchronous one, asked for one answer at a time.
        return answered(next(servicer.ServerReflectionInfo(iter((request,)), cast("Any", None))))

    request = reflection_pb2.ServerReflectionRequest
    return tuple(
        Method(service=name, name="ServerReflectionInfo", request=request, start=start, refuse=_refuse)
        for name in NAMES
    )


def _describe_v1() -> None:
    """Have the pool of all descriptions know v1, unless some library has told it already."""
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(NAMES[0])
    except KeyError:
        described = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(described)
        _rename(described)
        pool.Add(described)


def _rename(described: descriptor_pb2.FileDescriptorProto) -> None:
    described.name = described.name.replace(_ALPHA, "v1")
    described.package = described.package.replace(_ALPHA, "v1")
    for message in described.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(_ALPHA, "v1")
    for service in described.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, "v1")
            method.output_type = method.output_type.replace(_ALPHA, "v1")


def _refuse(request: Any, status: Status) -> Any:
    error = reflection_pb2.ErrorResponse(error_code=status.code.value[0], error_message=status.message)
    return reflection_pb2.ServerReflectionResponse(original_request=request, error_response=error)
