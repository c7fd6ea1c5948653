"""The proof itself, in the order in which it happens; each step says what it looked at."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from load import HEADS, Load, Part, Parts
from prefect_page import Prefect
from stack import EVERY_SECONDS, MODEL, wait

if TYPE_CHECKING:
    from engine import Engine
    from report import Report
    from stack import Stack

HERE = Path(__file__).parent
START_SECONDS = 150.0
PUBLISHED_SECONDS = 180.0
FIRINGS = {False: 5, True: 10}  # without and with kills, which take their time
GOOD_ACCURACY = 0.5  # of ten labels after a short training on few images: chance would be 0.1
# Of firings under way: one that the trainer's restart interrupts, even between its work and its word, is put back.
UNTOLD = {"Running", "Pending", "Completed"}
OWN_RESTART = "serving is restarted"


class Proof:
    """Everything that is shown on one deployment.

    Mutable state: how many versions should be published by now, and the parts of the time under load.

    Args:
        engine: runs containers beside the deployment.
        stack: the deployment.
        report: told what was seen.
        kills: also kill the trainer, Prefect's server and PostgreSQL, each in the middle of a run.
    """

    def __init__(self, engine: Engine, stack: Stack, report: Report, *, kills: bool) -> None:
        self._engine = engine
        self._stack = stack
        self._report = report
        self._kills = kills
        self._prefect = Prefect(stack.prefect_port)
        self._published = 0
        self._parts = Parts()

    def run(self) -> None:
        """All steps.

        Raises:
            NotInTime: something that was waited for didn't come.
            CommandFailed: the engine refused something.
        """
        self._start()
        self._first_version()
        self._report.title("Under load: two steady clients from here on")
        with Load(self._engine, address=self._stack.address, model=MODEL, images=self._stack.held) as load:
            wait("the steady clients' first answers", load.calm, START_SECONDS)
            self._parts.skip()
            if self._kills:
                self._kill_each()
            self._restart_each(load)
            self._look_at(load)
        self._history()

    def _start(self) -> None:
        stack, report = self._stack, self._report
        report.title("The deployment starts; PostgreSQL comes last, and late")
        stack.start("trainer", "prefect", "serving")
        took = wait("a ready server", stack.ready, START_SECONDS)
        report.check("the server is ready with an empty repository", f"after {took:.0f} s", good=True)
        stack.prepare_drops((HERE / "digits.py").read_text(encoding="utf-8"))
        early = self._prefect.ready()
        report.check(
            "Prefect's server waits for its database", "it is not ready" if not early else "ready", good=not early
        )
        stack.start("postgres")
        for service in ("postgres", "prefect", "trainer", "serving"):
            took = wait(f"a healthy {service}", partial(stack.healthy, service), START_SECONDS)
            report.check(f"{service} is healthy by its own check", f"after {took:.0f} s more", good=True)
        took = wait("the schedule in Prefect", self._prefect.scheduled, START_SECONDS)
        report.check("the trainer's schedule is in Prefect", f"after {took:.0f} s more", good=True)
        for service in ("prefect", "trainer", "serving"):
            user = stack.execute(service, "id", "-u").strip()
            writes = stack.execute(
                service, "sh", "-c", "touch /x 2>/dev/null && echo writable || echo read-only"
            ).strip()
            report.check(
                f"{service}'s user and root", f"uid {user}, {writes}", good=user != "0" and writes == "read-only"
            )
        owner = stack.execute("postgres", "stat", "-c", "%U", "/proc/1").strip()
        report.check("PostgreSQL's user", owner, good=owner == "postgres")
        models = stack.execute(
            "serving", "sh", "-c", "touch /models/x 2>/dev/null && echo writable || echo read-only"
        ).strip()
        report.check("the server's view of the models", models, good=models == "read-only")

    def _first_version(self) -> None:
        stack, report = self._stack, self._report
        report.title(f"Images fall into the inbox; the schedule looks every {EVERY_SECONDS} s")
        self._drop(1)
        took = self._wait_served()
        report.check("version 1 is published on schedule and served", f"after {took:.0f} s", good=True)
        program = (HERE / "ask.py").read_text(encoding="utf-8")
        asked = json.loads(self._beside("python3", "-c", program, stack.address))
        models = [(each["name"], each["version"], each["state"]) for each in asked["models"]]
        report.check("ListModels tells", models, good=[each[:2] for each in models] == [(MODEL, 1)])
        told = ", ".join(f"{name or 'the server'} {state}" for name, state in asked["health"].items())
        report.check("health tells", told, good=set(asked["health"].values()) == {"SERVING"})
        predicted = json.loads(
            self._beside("calotype", "predict", "/images", "--server", stack.address, "--model", MODEL, "--json")
        )
        right = sum(Path(each["path"]).parent.name == each["label"] for each in predicted["predictions"])
        count = predicted["images"]
        report.check(
            "predictions through the published port, right ones",
            f"{right} of {count} images that no training saw",
            good=predicted["failed"] == 0 and right >= GOOD_ACCURACY * count,
        )

    def _kill_each(self) -> None:
        """Kill what trains and what it leans on, each in the middle of a run."""
        for number, service in enumerate(("trainer", "prefect", "postgres"), start=2):
            self._drop(number)
            wait("a run that trains", self._prefect.under_way, PUBLISHED_SECONDS)
            back = self._stack.kill(service)
            self._report.check(f"kill -9 of {service} in mid-run", back, good=True)
            self._parts.mark(f"{service} is killed")
            self._wait_next()

    def _restart_each(self, load: Load) -> None:
        """Restart every container, the server while a run trains; its version must come all the same."""
        self._drop(self._published + 1)
        wait("a run that trains", self._prefect.under_way, PUBLISHED_SECONDS)
        self._restart("serving", load)
        self._wait_next()
        before = self._prefect.runs()
        for service in ("trainer", "prefect", "postgres"):
            self._restart(service, load)
        took = wait("Prefect's server with its database", self._prefect.ready, START_SECONDS)
        after = self._prefect.runs(also_to_come=True)
        lost = [
            f"{state} is {after.get(run, 'gone')}"
            for run, state in before.items()
            if run not in after or (state not in UNTOLD and after[run] != state)
        ]
        self._report.check(
            "flow runs that PostgreSQL remembers after the restarts",
            f"all {len(before)}; answers after {took:.0f} s" if not lost else f"of {len(before)}: {', '.join(lost)}",
            good=bool(before) and not lost,
        )

    def _wait_next(self) -> None:
        took = self._wait_served()
        self._report.check(f"version {self._published} is published and served", f"after {took:.0f} s", good=True)
        self._parts.mark(f"version {self._published} comes")

    def _restart(self, service: str, load: Load) -> None:
        self._stack.restart(service)
        took = wait(f"a healthy {service}", lambda: self._stack.healthy(service), START_SECONDS)
        wait("the steady clients' answers", load.calm, START_SECONDS)
        self._report.check(f"{service} is restarted and healthy again", f"after {took:.0f} s", good=True)
        self._parts.mark(f"{service} is restarted")

    def _look_at(self, load: Load) -> None:
        report = self._report
        self._parts.mark("the rest")
        report.title("What the steady clients saw")
        report.table([HEADS, *(load.row(part) for part in self._parts.all)])
        for part in self._parts.all:
            self._judge(load, part)
        versions = load.versions()
        report.check(
            "no call is answered by an older version than one before", "in order", good=versions == sorted(versions)
        )

    def _judge(self, load: Load, part: Part) -> None:
        once, patient = load.failures("once", part), load.failures("patient", part)
        own = part.name == OWN_RESTART
        foreign = [error for error in once if not own or not error.startswith("ModelNotReady")]
        if own or foreign:
            allowed = "only UNAVAILABLE" if own else "none"
            self._report.check(
                f"failed calls while {part.name}: {allowed}", (foreign or once or ["none"])[0], good=not foreign
            )
        if patient:
            self._report.check(f"calls that retries did not save while {part.name}", patient[0], good=False)

    def _history(self) -> None:
        stack, report = self._stack, self._report
        report.title("What the deployment remembers")
        firings = FIRINGS[self._kills]
        wait(f"{firings} firings", lambda: len(self._prefect.runs()) >= firings, PUBLISHED_SECONDS)
        states = list(self._prefect.runs().values())
        counts = {state: states.count(state) for state in sorted(set(states))}
        published = counts.get("Published", 0)
        report.check(f"at least {firings} firings, none lost silently", counts, good=len(states) >= firings)
        report.check("firings that published", published, good=published == self._published)
        verified = json.loads(self._in_serving("verify", MODEL))
        numbers = sorted(int(row["version"]) for row in verified["versions"])
        good = verified["whole"] and numbers == list(range(1, self._published + 1))
        report.check("versions in the repository, all whole", numbers, good=good)
        snapshots = [json.loads(self._in_serving("show", MODEL, f"--version={each}"))["dataset"] for each in numbers]
        distinct = len({json.dumps(each, sort_keys=True) for each in snapshots})
        report.check("snapshots they were trained on, none twice", distinct, good=distinct == len(numbers))
        tables = stack.execute("postgres", "psql", "-U", "prefect", "-Atc", "select count(*) from flow_run")
        report.check("flow runs in PostgreSQL's own table", tables.strip(), good=int(tables) >= len(states))

    def _drop(self, number: int) -> None:
        """Let images fall between two firings, so that no firing sees half of them."""
        wait("the end of the firing under way", lambda: not self._prefect.under_way(), PUBLISHED_SECONDS)
        count = self._stack.drop(number)
        self._published += 1
        self._report.note(f"{count} images fall into the inbox")

    def _wait_served(self) -> float:
        labels = (f'model="{MODEL}"', f'version="{self._published}"', 'state="Available"')

        def served() -> bool:
            states = (line for line in self._stack.metrics().splitlines() if line.startswith("calotype_model_state{"))
            return any(line.endswith(" 1.0") and all(label in line for label in labels) for line in states)

        return wait(f"version {self._published} to be served", served, PUBLISHED_SECONDS)

    def _in_serving(self, *words: str) -> str:
        return self._stack.execute("serving", "calotype", "models", *words, "--models=/models", "--json")

    def _writable(self, service: str, path: str) -> str:
        tried = f"touch {path} 2>/dev/null && echo writable || echo read-only"
        return self._stack.execute(service, "sh", "-c", tried).strip()

    def _beside(self, *words: str) -> str:
        """Run a command in a container of its own that reaches the published ports as any program here does."""
        volume = f"--volume={self._stack.held}:/images:ro"
        return self._engine.do("run", "--rm", "--network=host", volume, "calotype-serving", *words)
