"""The asyncio twin answers as the client does."""

from __future__ import annotations

import asyncio

import pytest

from serving.aio_client import AsyncClient
from serving.client import Client, Options
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


def test_it_has_what_the_client_has(form):
    """The list of models, and answers one by one while images are still being read."""
    block = pixels(70)
    files = [png(block[0]), b"junk", "/nowhere/at/all.png", block[1]]
    options = Options(request_images=16, in_flight=2)

    async def ask(address):
        async with AsyncClient(address, options=options) as client:
            return (
                await client.models(),
                [each async for each in client.classify_each(block, model="digits", top_k=2)],
                [each async for each in client.classify_each(files, model="digits")],
                [each async for each in client.reconstruct_each(block, model="digits-ae", form="pixels")],
            )

    with served(two_models(), form) as rig:
        ours = asyncio.run(ask(rig.address))
        with Client(rig.address, options=options) as client:
            assert ours[0] == client.models()
            assert ours[1] == list(client.classify_each(block, model="digits", top_k=2))
            assert ours[2] == list(client.classify_each(files, model="digits"))
            assert ours[3] == list(client.reconstruct_each(block, model="digits-ae", form="pixels"))
    assert len(ours[1]) == 5


def test_images_are_read_no_earlier_than_needed(form):
    """By whoever leaves early, too."""
    read = []

    def images():
        for row in pixels(40):
            read.append(row)
            yield row

    async def ask(address):
        async with AsyncClient(address, options=Options(request_images=4, in_flight=2)) as client:
            answers = client.classify_each(images(), model="digits")
            async for each in answers:
                assert len(each.results) == 4
                break
            await answers.aclose()

    with served(two_models(), form) as rig:
        asyncio.run(ask(rig.address))
    assert len(read) <= 12


def test_both_have_the_same_methods():
    """So that nobody has to look which of them has what."""

    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
