"""An S3-speaking server on this machine, from a package, as a process of its own: moto's."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading

ADDRESS = re.compile(r"Running on (http://[\d.:]+)")


class S3Server:
    """One server process; what it holds ends with it. A context manager."""

    def __init__(self, port=0):
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = []
        self.endpoint = ""
        for line in self._process.stderr:
            said.append(line)
            if found := ADDRESS.search(line):
                self.endpoint = found[1]
                break
        assert self.endpoint, f"moto's server did not start: {''.join(said)}"
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)  # else its pipe fills up
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def port(self):
        return int(self.endpoint.rpartition(":")[2])

    @property
    def environment(self):
        """What a process needs to find it, by the variables that every S3 client knows."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self):
        """End it; may be called twice."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()


@contextlib.contextmanager
def file_system(server, monkeypatch):
    """s3fs in this process, as the environment tells it; nothing that it remembers outlives the block."""
    from s3fs import S3FileSystem

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    try:
        yield S3FileSystem()
    finally:
        S3FileSystem.clear_instance_cache()
