"""One address that means several servers, as a headless service's name does: the client's calls go round them."""

from __future__ import annotations

import asyncio

from serving.aio_client import AsyncClient
from serving.client import Client
from tests.serving.fake_models import pixels
from tests.serving.fake_registry import served, two_models

ENOUGH_CALLS = 500  # the second connection may come a little later than the first


def test_calls_go_round_all_servers_of_an_address():
    """Both servers answer calls of one client, and all answers are right."""
    with served(two_models()) as one, served(two_models()) as other:
        registries = (one.registry, other.registry)
        with Client(f"ipv4:{one.address},{other.address}") as client:
            expected = client.classify(pixels(1), model="digits")
            for _ in range(ENOUGH_CALLS):
                assert client.classify(pixels(1), model="digits") == expected
                if all(len(each.deadlines) > 1 for each in registries):
                    break
        assert all(len(each.deadlines) > 1 for each in registries)


def test_calls_of_the_asyncio_client_do_so_too():
    """The twin's channel is told the same."""

    async def ask(address, registries):
        async with AsyncClient(address) as client:
            for _ in range(ENOUGH_CALLS):
                await client.classify(pixels(1), model="digits")
                if all(len(each.deadlines) > 1 for each in registries):
                    break

    with served(two_models()) as one, served(two_models()) as other:
        registries = (one.registry, other.registry)
        asyncio.run(ask(f"ipv4:{one.address},{other.address}", registries))
        assert all(len(each.deadlines) > 1 for each in registries)


def test_a_server_that_is_away_takes_no_calls():
    """With one of two addresses dead every call is answered by the other."""
    with served(two_models()) as gone:
        dead = gone.address
    with served(two_models()) as one, Client(f"ipv4:{dead},{one.address}") as client:
        for _ in range(20):
            assert len(client.classify(pixels(1), model="digits")) == 1
