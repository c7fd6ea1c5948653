"""The Python client's asyncio twin: the same images, the same predictions, the same retries."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

import grpc

from serving import credentials
from serving.client import (
    Form,
    Options,
    answer,
    channel_arguments,
    classify_request,
    reconstruct_request,
    retry_after,
    translated,
)
from serving.parts import Part, split
from serving.predictions import Answered
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from serving.credentials import Pem
    from serving.parts import Image
    from serving.predictions import Classification, Failure, Reconstruction


class AsyncClient:
    """One channel to one server, on one event loop; use `async with`, or close it.

    Args: as `Client`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        options: Options | None = None,
    ) -> None:
        self._options = options or Options()
        self._metadata = credentials.metadata(token)
        where, secure = credentials.target(address)
        own = credentials.channel_credentials(ca=ca, certificate=certificate, key=key, secure=secure)
        arguments = channel_arguments(self._options)
        if own is None:
            self._channel = grpc.aio.insecure_channel(where, options=arguments)
        else:
            self._channel = grpc.aio.secure_channel(where, own, options=arguments)
        self._stub = v1_grpc.PredictionServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close()

    async def classify(
        self, images: Iterable[Image], *, model: str, version: int = 0, top_k: int = 0
    ) -> list[Classification | Failure]:
        """As `Client.classify`."""
        return await _all(self.classify_each(images, model=model, version=version, top_k=top_k))

    async def reconstruct(
        self, images: Iterable[Image], *, model: str, version: int = 0, form: Form = "error"
    ) -> list[Reconstruction | Failure]:
        """As `Client.reconstruct`."""
        return await _all(self.reconstruct_each(images, model=model, version=version, form=form))

    def classify_each(
        self, images: Iterable[Image], *, model: str, version: int = 0, top_k: int = 0
    ) -> AsyncGenerator[Answered, None]:
        """As `Client.classify_each`, for `async for`."""
        return self._pipeline(self._stub.Classify, classify_request(model, version, top_k), images)

    def reconstruct_each(
        self, images: Iterable[Image], *, model: str, version: int = 0, form: Form = "error"
    ) -> AsyncGenerator[Answered, None]:
        """As `Client.reconstruct_each`, for `async for`."""
        return self._pipeline(self._stub.Reconstruct, reconstruct_request(model, version, form), images)

    async def models(self) -> list[v1.ModelInfo]:
        """As `Client.models`."""
        response = await self._response(self._stub.ListModels, v1.ListModelsRequest())
        return list(response.models)

    async def _pipeline(self, method: Any, template: Any, images: Iterable[Image]) -> AsyncGenerator[Answered, None]:
        """Answers in order, several requests under way; those nobody waits for any more are cancelled."""
        waiting: deque[asyncio.Task[Answered]] = deque()
        options = self._options
        try:
            for part in split(images, max_images=options.request_images, max_bytes=options.request_bytes):
                waiting.append(asyncio.ensure_future(self._answer(method, template, part)))
                if len(waiting) >= options.in_flight:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()

    async def _answer(self, method: Any, template: Any, part: Part) -> Answered:
        if part.images is None:
            return Answered(template.model, template.version, part.merged(()))
        request = type(template)()
        request.CopyFrom(template)
        request.images.CopyFrom(part.images)
        return answer(await self._response(method, request), part)

    async def _response(self, method: Any, request: Any) -> Any:
        """The server's answer, however many attempts it takes."""
        deadline = time.monotonic() + self._options.timeout_seconds
        attempt = 1
        while True:
            try:
                return await method(request, timeout=deadline - time.monotonic(), metadata=self._metadata)
            except grpc.RpcError as error:
                wait_seconds = retry_after(error, attempt, self._options)
                if wait_seconds is None or time.monotonic() + wait_seconds >= deadline:
                    raise translated(error) from error
            await asyncio.sleep(wait_seconds)
            attempt += 1


async def _all(answers: AsyncGenerator[Answered, None]) -> list[Any]:
    return [result async for each in answers for result in each.results]
