"""Which form of the transport is chosen, and that a broken one is found out before it serves."""

from __future__ import annotations

import dataclasses
import logging
from concurrent.futures import Future

import grpc
import pytest

from serving.errors import BadSetting
from serving.transport import choose, self_test
from serving.transport.aio import AioTransport
from serving.transport.builtin import Uncounted
from serving.transport.core import CoreTransport
from serving.transport.face import Options
from tests.serving.fake_registry import FORMS


@pytest.fixture
def warnings():
    """What the transport's room warns of, whoever configured logging before."""
    kept = []
    log = logging.getLogger("calotype.transport")
    handler = logging.Handler(logging.WARNING)
    handler.emit = kept.append
    log.addHandler(handler)
    yield kept
    log.removeHandler(handler)


def build(kind, **more):
    """The class of what is chosen."""
    transport = choose.build(kind, (), Uncounted(), Options(port=0), **more)
    transport.drain_and_stop(0.0)
    return type(transport)


def test_both_forms_pass_the_self_test(form):
    """It asks for nothing that the portable form does not do."""
    self_test.run(FORMS[form])


def test_the_fast_form_is_the_default_where_it_works(warnings):
    """And the portable one is there for the asking."""
    assert build("auto") is CoreTransport
    assert build("core") is CoreTransport
    assert build("aio") is AioTransport
    assert not warnings


def test_a_broken_fast_form_is_replaced_in_one_line(warnings):
    """As when a release of grpcio renames what it rests on; who insists on it is told why not."""

    def renamed():
        raise AttributeError("module 'grpc._cython' has no attribute 'cygrpc'")

    assert build("auto", core=renamed) is AioTransport
    [line] = warnings
    assert line.getMessage() == "transport_fallback"
    assert "cygrpc" in str(line.fields["error"])
    with pytest.raises(BadSetting, match=r"--transport core.*cygrpc"):
        build("core", core=renamed)


def forgets_metadata(start):
    return lambda request, call: start(request, dataclasses.replace(call, metadata={}))


def forgets_deadlines(start):
    return lambda request, call: start(request, dataclasses.replace(call, deadline=None))


def never_answers(start):
    return lambda request, call: start(request, call) and Future()


def hears_no_hang_up(start):
    def deaf(request, call):
        future = start(request, call)
        if future.done():
            return future
        return Future()

    return deaf


@pytest.mark.parametrize("fault", [forgets_metadata, forgets_deadlines, never_answers, hears_no_hang_up])
def test_the_self_test_fails_a_form_that(fault):
    """Passes every kind of fault on to the service, or to the caller, but the one."""

    def faulty(methods, desk, options):
        wrapped = [dataclasses.replace(method, start=fault(method.start)) for method in methods]
        return AioTransport(wrapped, desk, options)

    with pytest.raises((self_test.SelfTestFailed, grpc.RpcError)):
        self_test.run(faulty, patience_seconds=0.3)
