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
from serving.v1 import prediction_pb2_grpc as v1_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

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
        request = classify_request(model, version, top_k)
        return await self._all(self._stub.Classify, request, images)

    async def reconstruct(
        self, images: Iterable[Image], *, model: str, version: int = 0, form: Form = "error"
    ) -> list[Reconstruction | Failure]:
        """As `Client.reconstruct`."""
        request = reconstruct_request(model, version, form)
        return await self._all(self._stub.Reconstruct, request, images)

    async def _all(self, method: Any, template: Any, images: Iterable[Image]) -> list[Any]:
        return [result async for each in self._pipeline(method, template, images) for result in each.results]

    async def _pipeline(self, method: Any, template: Any, images: Iterable[Image]) -> AsyncIterator[Answered]:
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
        """The answer to one part, however many attempts it takes."""
        if part.images is None:
            return Answered(template.model, template.version, part.merged(()))
        request = type(template)()
        request.CopyFrom(template)
        request.images.CopyFrom(part.images)
        deadline = time.monotonic() + self._options.timeout_seconds
        attempt = 1
        while True:
            try:
                timeout = deadline - time.monotonic()
                return answer(await method(request, timeout=timeout, metadata=self._metadata), part)
            except grpc.RpcError as error:
                wait_seconds = retry_after(error, attempt, self._options)
                if wait_seconds is None or time.monotonic() + wait_seconds >= deadline:
                    raise translated(error) from error
            await asyncio.sleep(wait_seconds)
            attempt += 1
