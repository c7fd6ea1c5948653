"""Ten firings with data arriving in between, and a kill -9 of each process in the middle; prints what it saw.

Run by hand, some six minutes: python tests/chaos/schedule.py [FOLDER]. Exits 1 when a promise was not kept: every
version published once, no run lost silently, the server never without a model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from serving.client import Client
from serving.errors import CalotypeError
from tests.chaos.actors import CLEAN, ROOT, NamedPrefect, Receiver, Schedule, add_digits, kill, until

FIRINGS = 10


class Prober:
    """Asks the server all the time, from its first good answer on."""

    def __init__(self, folder):
        command = [
            sys.executable,
            "-m",
            "pipelines.cli",
            "serve",
            "--models",
            "ws/models",
            "--port",
            "0",
            "--http-port",
            "0",
        ]
        (folder / "ws" / "models").mkdir(parents=True, exist_ok=True)
        self._server = subprocess.Popen(
            command,
            cwd=folder,
            env={**CLEAN, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = next(
            word
            for word in self._server.stdout.readline().replace(",", " ").split()
            if ":" in word and word[-1].isdigit()
        )
        self.answers = self.failures = 0
        self.versions = []
        self._stopping = threading.Event()
        self._image = next((folder / "inbox").rglob("*.png")).read_bytes()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        with Client(self.address) as client:
            while not self._stopping.wait(0.1):
                try:
                    client.classify([self._image], model="digits")
                    newest = max(model.version for model in client.models())
                    self.answers += 1
                    if newest not in self.versions:
                        self.versions.append(newest)
                except CalotypeError:
                    self.failures += bool(self.answers)

    def stop(self):
        self._stopping.set()
        self._thread.join()
        self._server.terminate()
        self._server.wait(30)


def main(folder):
    inbox = folder / "inbox"
    say(f"in {folder}")
    with NamedPrefect(folder) as prefect, Receiver() as receiver:
        until(prefect.ready, what="Prefect's server")
        schedule = Schedule(
            folder,
            "--on-new-data",
            "--settle-seconds",
            "1",
            "--poll-seconds",
            "0.5",
            "--webhook",
            f"{receiver.url}/secret",
            PREFECT_API_URL=prefect.url,
        )
        with schedule:
            prober = None
            for firing in range(1, FIRINGS + 1):
                before = len(schedule.events("published", "refused", "failed"))
                add_digits(inbox, (firing - 1) * 40, firing * 40)
                began = time.monotonic()
                disturb(firing, schedule, prefect)
                event = schedule.ended(before + 1, "published", "refused", "failed", seconds=300)[-1]
                took = time.monotonic() - began
                what = f"version {event['version']}" if event["event"] == "published" else event["reason"]
                say(f"firing {firing}: {event['event']} {what}; {took:.0f} s; scheduler {schedule.rss_mb():.0f} MB")
                prober = prober or Prober(folder)
            until(
                lambda: prober.versions and prober.versions[-1] == max(versions(schedule)),
                seconds=30,
                what="the newest version",
            )
            prober.stop()
            status = schedule.stop()
        return judge(schedule, prober, receiver, status)


def disturb(firing, schedule, prefect):
    """Kill something in the middle of a firing."""
    if firing not in {3, 5, 7, 9}:
        return
    until(lambda: any(run["state"] == "started" for run in schedule.runs()), what="a run under way")
    if firing == 3:
        say("  kill -9 of the scheduler in mid-run; a second later it is started again")
        schedule.kill()
        time.sleep(1)
        schedule.start()
    elif firing == 5:
        say("  kill -9 of Prefect's server in mid-run; 20 s later it is started again")
        prefect.kill()
        time.sleep(20)
        prefect.start()
    elif firing == 7:
        say("  kill -9 of TensorFlow's process in mid-run")
        kill(until(lambda: schedule.child("spawn_main"), what="TensorFlow's process"))
    elif firing == 9:
        say("  kill -9 of the firing's process in mid-run")
        kill(until(lambda: schedule.child("pipelines.firing"), what="the firing's process"))


def versions(schedule):
    return sorted(int(path.parent.name) for path in schedule.models.glob("*/checksums"))


def judge(schedule, prober, receiver, status):
    found = versions(schedule)
    made_by = [
        json.loads((schedule.models / str(number) / "bundle.json").read_text())["made_by"]["run"] for number in found
    ]
    runs = schedule.runs()
    ends = {run["run"]: run["state"] for run in runs}
    published = [event["version"] for event in schedule.events("published")]
    told = [message for _, message in receiver.got]
    kept = {
        "every version was published once, by a run of its own": len(set(made_by)) == len(made_by) == len(found),
        "every run came to an end that is written down": set(ends.values()) <= {"published", "refused", "failed"},
        "every version has its line in the log": sorted(published) == found,
        "every end was told to the webhook": len(told) == len(schedule.events("published", "refused", "failed")),
        "the webhook's secret is in no log": "secret" not in schedule.log(),
        "the server never was without a model": prober.failures == 0 and prober.answers > 0,
        "SIGTERM ended the scheduler with status 0": status == 0,
    }
    say(f"versions {found}; runs: {sorted(ends.values())}")
    say(f"the server answered {prober.answers} times, failed {prober.failures} times, served {prober.versions}")
    for promise, held in kept.items():
        say(f"{'kept' if held else 'BROKEN'}: {promise}")
    return 0 if all(kept.values()) else 1


def say(line):
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(Path(folder)))
