"""The HTTP port: probes and metrics, and a taken port that is said so."""

import contextlib
import http.client
import socket
import threading

import pytest

from serving.errors import BadSetting
from serving.http import HttpPort
from tests.serving.test_predictions_wire import wait_until

MOST = 128


@pytest.fixture
def page():
    state = {"ready": False}
    port = HttpPort(host="127.0.0.1", port=0, metrics=lambda: b"m 1\n", ready=lambda: state["ready"])
    port.start()

    def get(path, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    get.state, get.port = state, port
    yield get
    port.stop()
    port.stop()


def test_readiness_follows_what_it_is_told_and_liveness_does_not(page):
    assert page("/readyz") == (503, b"not ready\n")
    assert page("/livez") == (200, b"live\n")
    page.state["ready"] = True
    assert page("/readyz") == (200, b"ready\n")


def test_metrics_are_asked_for_anew_and_query_strings_are_ignored(page):
    assert page("/metrics?x=1") == (200, b"m 1\n")


def test_head_has_no_body_and_other_paths_are_not_found(page):
    assert page("/livez", "HEAD") == (200, b"")
    assert page("/")[0] == 404
    assert page("/livez", "POST")[0] == 501


def test_a_taken_port_is_bad_setting_that_names_the_flag(page):
    second = HttpPort(host="127.0.0.1", port=page.port.port, metrics=bytes, ready=bool)
    with pytest.raises(BadSetting, match="--http-port"):
        second.start()


def test_a_host_that_is_not_ours_is_bad_setting():
    with pytest.raises(BadSetting, match=r"192\.0\.2\.1"):
        HttpPort(host="192.0.2.1", port=0, metrics=bytes, ready=bool).start()


def test_idle_connections_are_bounded_and_keep_no_probe_out(page):
    """The oldest goes for one more; each costs a thread."""
    before = threading.active_count()
    with contextlib.ExitStack() as crowd:
        for _ in range(MOST + 50):
            crowd.enter_context(socket.create_connection(("127.0.0.1", page.port.port), 10))
        assert page("/livez") == (200, b"live\n")
        wait_until(lambda: threading.active_count() - before < MOST + 10)
