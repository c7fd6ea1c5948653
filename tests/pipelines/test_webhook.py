"""What came of a run, told to a real receiver on this machine."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from pipelines.errors import UsageError
from pipelines.webhook import Webhook, check, masked
from tests.chaos.actors import Receiver, until


class Told:
    def __init__(self):
        self.lines, self.counts = [], []


@pytest.fixture
def told():
    return Told()


def _webhook(url, told, **more):
    return Webhook(url, told=told.lines.append, counted=told.counts.append, **more)


def test_messages_arrive_as_json_in_order(told):
    """Each message is one POST with the whole message in it."""
    with Receiver() as receiver, _webhook(f"{receiver.url}/hook", told) as hook:
        for number in range(3):
            hook.send({"event": "published", "version": number})
        until(lambda: len(receiver.got) == 3)
    assert receiver.got == [("/hook", {"event": "published", "version": number}) for number in range(3)]
    assert told.counts == ["sent"] * 3


def test_a_receiver_that_is_busy_is_asked_again(told):
    """503 now and 200 later: the message arrives."""
    with Receiver(status=503) as receiver, _webhook(receiver.url, told, pauses_seconds=(0.01,) * 1000) as hook:
        hook.send({"event": "failed"})
        until(lambda: len(receiver.got) >= 2)
        receiver.status = 200
        until(lambda: told.counts)
    assert told.counts == ["sent"]


def test_a_refusal_is_final_and_no_log_holds_the_secret(told):
    """404 is not asked again; the line names the host, and neither path nor password."""
    with Receiver(status=404) as receiver:
        url = receiver.url.replace("http://", "http://me:pass@") + "/services/T0K3N?key=abc"
        with _webhook(url, told) as hook:
            hook.send({"event": "failed"})
            until(lambda: told.counts)
    assert len(receiver.got) == 1
    assert told.counts == ["lost"]
    assert "127.0.0.1" in told.lines[0]
    assert not [secret for secret in ("T0K3N", "abc", "pass") if secret in told.lines[0]]


def test_a_dead_receiver_holds_nobody_up(told):
    """Nobody listens, or somebody who never answers: sending returns at once, and so does the end."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        with _webhook(url, told, limit_seconds=0.1, farewell_seconds=0.5) as hook:
            for _ in range(300):
                hook.send({"event": "failed"})
            assert time.monotonic() - began < 1.0
        assert time.monotonic() - began < 10.0
    assert "lost" in told.counts


def test_an_endless_answer_is_a_yes_at_its_first_line(told):
    """A receiver that sends on and on is neither waited for nor kept in memory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with _webhook(url, told) as hook:
            hook.send({"event": "published"})
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nand so on")
                until(lambda: told.counts, seconds=5.0)
    assert told.counts == ["sent"]


def test_a_message_that_is_no_json_is_lost_alone(told):
    """A training that diverged has a loss of NaN: that message can't be sent, and the next one is."""
    with Receiver() as receiver, _webhook(receiver.url, told) as hook:
        hook.send({"event": "failed", "metrics": {"loss": float("nan")}})
        hook.send({"event": "published"})
        until(lambda: len(told.counts) == 2)
    assert told.counts == ["lost", "sent"]


def test_no_url_means_no_message_and_no_thread(told):
    """A schedule without --webhook starts nothing."""
    before = threading.active_count()
    with _webhook(None, told) as hook:
        hook.send({"event": "failed"})
        assert threading.active_count() == before
    assert told.counts == []


@pytest.mark.parametrize("url", ["ftp://host/", "host/path", "http://", "http://[", "https://host:99999/"])
def test_what_is_no_url_is_refused_without_being_repeated(url):
    """The sentence says what is expected; the URL itself may be a secret."""
    with pytest.raises(UsageError) as refused:
        check(url)
    assert "http://" in str(refused.value)


def test_a_masked_url_keeps_its_host():
    """For the log."""
    assert masked("https://u:p@hooks.example.com/T/B/x?y=z") == "https://hooks.example.com/…"
