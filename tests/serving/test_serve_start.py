"""A server that can't start: one sentence on stderr, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

SERVE = "import sys; from serving import cli; sys.exit(cli.run(cli.load('serve')))"


@pytest.mark.parametrize("transport", ["core", "aio"])
def test_a_taken_port_is_told_by_one_line(tmp_path, transport):
    """Neither gRPC's own words nor events of a server that never was stand beside it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("--models", str(tmp_path), "--port", port, "--http-port", "0", "--transport", transport)
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        ended = subprocess.run(
            [sys.executable, "-c", SERVE, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"Error: Cannot listen on 127.0.0.1:{port}")
    assert (ended.returncode, ended.stdout) == (2, "")
