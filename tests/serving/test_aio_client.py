"""The asyncio twin answers as the client does."""

from __future__ import annotations

import asyncio

import pytest

from serving.aio_client import AsyncClient
from serving.client import Client
from serving.codec import png
from serving.errors import ModelNotFound, Overloaded
from tests.serving.fake_models import pixels
from tests.serving.fake_registry import served, two_models


def test_it_predicts_what_the_client_predicts(form):
    """Pixels, files, unreadable files, both tasks; and errors are the house's."""
    block = pixels(70)
    files = [png(block[0]), b"junk", "/nowhere/at/all.png", png(block[1])]

    async def ask(address):
        async with AsyncClient(address) as client:
            with pytest.raises(ModelNotFound):
                await client.classify(block, model="nobody")
            return (
                await client.classify(block, model="digits"),
                await client.classify(files, model="digits", top_k=1),
                await client.reconstruct(block[:2], model="digits-ae", form="png"),
            )

    with served(two_models(), form) as rig:
        ours = asyncio.run(ask(rig.address))
        with Client(rig.address) as client:
            assert ours[0] == client.classify(block, model="digits")
            assert ours[1] == client.classify(files, model="digits", top_k=1)
            assert ours[2] == client.reconstruct(block[:2], model="digits-ae", form="png")


def test_it_comes_back_after_a_refusal(form):
    """Until the server takes the request."""
    registry = two_models()
    refusals = [Overloaded("full", retry_after_ms=1)] * 2

    class Trouble(list):
        def pop(self, _index):
            refusal = refusals.pop()
            if not refusals:
                registry.trouble = None
            return refusal

        def __bool__(self):
            return True

    registry.trouble = Trouble()

    async def ask(address):
        async with AsyncClient(address) as client:
            return await client.classify(pixels(1), model="digits")

    with served(registry, form) as rig:
        assert len(asyncio.run(ask(rig.address))) == 1
    assert refusals == []
