"""What the conformance suite runs against: `python -m pytest tests/conformance --target HOST:PORT`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser):
    parser.addoption("--target", help="host:port of the server to be judged; without it nothing is collected")
    parser.addoption("--model", action="append", default=[], help="a model of yours to be called as well")


def pytest_ignore_collect(collection_path, config):
    """Nothing here is for a run without a target."""
    return True if not config.getoption("target", None) else None


@pytest.fixture(scope="session")
def server(request):
    from oip import Server

    server = Server(request.config.getoption("target"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def extensions(server):
    """What the server announces."""
    return set(server.ServerMetadata().extensions)


@pytest.fixture(scope="session")
def metadata(server):
    """Name -> its metadata, or a skip where the server has no such model."""
    import grpc

    found = {}

    def of(name):
        if name not in found:
            try:
                found[name] = server.ModelMetadata(name=name)
            except grpc.RpcError as error:
                found[name] = error
        if isinstance(found[name], Exception):
            pytest.skip(f"the server has no model {name!r} (tests/conformance/models.py writes it)")
        return found[name]

    return of


def pytest_generate_tests(metafunc):
    """`named`: the models that the command line names, or else `simple`."""
    if "named" in metafunc.fixturenames:
        metafunc.parametrize("named", metafunc.config.getoption("model") or ["simple"])
