"""A server whose models lie in a bucket of a real S3-speaking server: what it serves when that changes or goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest

from serving.client import Client
from tests.s3_server import S3Server, file_system
from tests.serving import fake_models

pytestmark = pytest.mark.slow

SERVE = "import sys; from serving import cli; sys.exit(cli.run(cli.load('serve')))"
POLL_SECONDS = 3


class Serving:
    """`calotype serve --models s3://…` as a process; what it says on stderr is in a file."""

    def __init__(self, server, tmp_path, *more):
        self.log = tmp_path / "log"
        environment = {**os.environ, **server.environment, "AWS_MAX_ATTEMPTS": "1"}
        arguments = ["--models", "s3://models/prod", "--cache", str(tmp_path / "cache"), "--port", "0"]
        arguments += ["--http-port", "0", "--poll-seconds", str(POLL_SECONDS), *more]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        found = re.search(r"grpc://(\S+) (http://\S+)", self._process.stdout.readline())
        assert found, self.log.read_text()
        self.address, self._http = found.groups()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def version(self, client):
        [answer] = client.classify_each(fake_models.pixels(1), model="digits")
        return answer.version

    def failed_looks(self):
        with urllib.request.urlopen(self._http + "/metrics", timeout=10) as answer:
            return int(float(re.search(r'looks_total\{outcome="failed"\} (\S+)', answer.read().decode())[1]))


def seconds_until(there, limit_seconds):
    """How long it took until `there()`; whoever waits is woken by nothing, so it looks."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < limit_seconds
        time.sleep(0.02)
    return time.monotonic() - began


def sync(models, bucket):
    """As docs/formats.md says it from Python."""
    files = [
        path
        for path in models.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(models).parts)
    ]
    for path in sorted(files, key=lambda path: path.name == "checksums"):
        bucket.put_file(str(path), f"models/prod/{path.relative_to(models).as_posix()}")


def test_the_bucket_is_followed_and_may_go(tmp_path, monkeypatch):
    """A version that comes into the bucket serves within two intervals; the bucket away, all goes on, and after it too.

    A server that starts without its bucket serves what was mirrored; here with several workers.
    """
    models = tmp_path / "models"
    fake_models.publish_classifier(models)
    with S3Server() as server, file_system(server, monkeypatch) as bucket:
        bucket.mkdir("models")
        sync(models, bucket)
        with Serving(server, tmp_path) as serving, Client(serving.address) as client:
            assert serving.version(client) == 1
            fake_models.publish_classifier(models, gain=8.0)
            sync(models, bucket)
            assert seconds_until(lambda: serving.version(client) == 2, 60) < 2 * POLL_SECONDS
            server.stop()
            seconds_until(lambda: serving.failed_looks() >= 2, 60)
            assert serving.version(client) == 2
            assert serving.log.read_text().count("mirror_failed") == 1
            fake_models.publish_classifier(models)
            with S3Server(server.port) as again:
                bucket.mkdir("models")
                sync(models, bucket)
                seconds_until(lambda: serving.version(client) == 3, 60)
                assert again.endpoint == server.endpoint
            assert serving.log.read_text().count("mirror_reaches_again") == 1
            assert "secret-of-the-tests" not in serving.log.read_text()
    with Serving(server, tmp_path, "--workers", "2") as serving, Client(serving.address) as client:
        assert serving.version(client) == 3
        assert "mirror_failed" in serving.log.read_text()
