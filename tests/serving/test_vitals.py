"""The vital signs of the server's processes, as /proc has them."""

from __future__ import annotations

import os
import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from serving.vitals import Vitals


def read(vitals):
    """Values by name and process."""
    text = vitals.exposition().decode()
    return {
        (sample.name, sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_one_process_tells_its_memory_time_and_files():
    """All of it is of this very process, and plausible."""
    found = read(Vitals())
    assert {process for _, process in found} == {"server"}
    assert 5e6 < found["process_resident_memory_bytes", "server"] < 50e9
    assert 0 < found["process_cpu_seconds_total", "server"] <= sum(os.times()[:2]) + 0.1
    assert 0 < found["process_open_fds", "server"] <= found["process_max_fds", "server"]
    assert found["process_start_time_seconds", "server"] > 1e9


def test_workers_are_told_apart_and_a_dead_one_is_no_error():
    """Each under its place's name; one that has ended is left out, and doesn't cost the others' figures."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    try:
        found = read(Vitals([gone.pid, child.pid]))
    finally:
        child.communicate()
    memory = {process for name, process in found if name == "process_resident_memory_bytes"}
    assert memory == {"server", "worker-2"}


def test_each_metric_is_described_once():
    """One HELP and TYPE line for each, however many processes: Prometheus refuses a second one."""
    lines = Vitals([os.getpid()]).exposition().decode().splitlines()
    described = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(described) == len(set(described)) == 6
