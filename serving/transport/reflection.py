"""Server reflection (v1alpha) as a stream's method, so that grpcurl and its like need no proto files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from grpc_reflection.v1alpha import reflection, reflection_pb2

from serving.calls import Method, answered

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from serving.calls import Call, Status

NAME: Final = reflection.SERVICE_NAME


def methods(services: Iterable[str]) -> tuple[Method, ...]:
    """Reflection over some services and itself, as a transport serves it."""
    servicer = reflection.ReflectionServicer((*services, NAME))

    def start(request: Any, _call: Call) -> Future[Any]:
        # The servicer makes nothing of its context: it is the synchronous one, asked for one answer at a time.
        return answered(next(servicer.ServerReflectionInfo(iter((request,)), cast("Any", None))))

    request = reflection_pb2.ServerReflectionRequest
    return (Method(service=NAME, name="ServerReflectionInfo", request=request, start=start, refuse=_refuse),)


def _refuse(request: Any, status: Status) -> Any:
    error = reflection_pb2.ErrorResponse(error_code=status.code.value[0], error_message=status.message)
    return reflection_pb2.ServerReflectionResponse(original_request=request, error_response=error)
