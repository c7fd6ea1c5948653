"""The address of a Prefect server that the user named."""

from __future__ import annotations

import socket

import pytest

from pipelines.errors import PipelineError
from pipelines.prefect_server import _check_answers
from tests.chaos.actors import Receiver


@pytest.mark.parametrize("address", ["http://me:hush@127.0.0.1:{}/api", "http://127.0.0.1:{}x/api", "http://h/a b"])
def test_an_address_where_nobody_answers_is_a_sentence_without_its_password(address):
    """A typing error in the port too; the sentence names the variable and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed_port = taken.getsockname()[1]
    with pytest.raises(PipelineError, match=r"PREFECT_API_URL=http://.*correct the address") as refused:
        _check_answers(address.format(closed_port))
    assert "hush" not in str(refused.value)
    assert "Name or service" not in str(refused.value)


def test_an_address_with_a_password_is_asked_without_it():
    """A proxy that asks who comes has answered, whatever it says: the password is Prefect's to send."""
    with Receiver() as receiver:
        _check_answers(receiver.url.replace("http://", "http://me:hush@"))
