"""A search over parameters for the smallest loss; the only file that imports Optuna.

Knows no model: what a trial does is a function that it is given. A study lives in a database; whoever opens the same
one, later or on another machine, goes on with it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from pipelines.errors import PipelineError, UsageError
from pipelines.space import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from pipelines.space import Parameters, Range, Space

    Report = Callable[[int, float], None]
    TrialFunction = Callable[[int, Parameters, Report], float]

End = Literal["complete", "pruned", "failed"]

STARTUP_TRIALS = 5  # before these are whole, none is pruned: there is no median worth the name
FEWEST_FOR_IMPORTANCE = 2
LOCK_SECONDS = 60  # how long a process waits for another one to let go of an SQLite file
OPENING_PAUSES_SECONDS = (0.2, 0.4, 0.8)
REASON = "reason"
OWNER = "owner"  # of a trial: its process, as host/pid
STORAGE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
ENDS: dict[TrialState, End] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial that ended.

    Attributes:
        number: counted from 0 within the study.
        end: complete; pruned: stopped, since it was worse than half of the others; failed: see `reason`.
        value: its loss; of a pruned one the best that it came to; None: it came to none.
        parameters: by their dotted recipe keys.
        seconds: from its start to its end.
        reason: why it failed, in words.
    """

    number: int
    end: End
    value: float | None
    parameters: Parameters
    seconds: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """What a search has found so far.

    Attributes:
        name: in its database.
        trials: that ended, by number.
        importance: of each parameter for reaching the best trials, adding up to 1; empty when too few are whole.
    """

    name: str
    trials: tuple[Trial, ...]
    importance: dict[str, float]

    @property
    def best(self) -> Trial:
        """The whole trial of the smallest value.

        Raises:
            PipelineError: no trial is whole.
        """
        whole = [trial for trial in self.trials if trial.end == "complete"]
        if not whole:
            reason = next((trial.reason for trial in reversed(self.trials) if trial.reason), "none was begun")
            raise PipelineError(f"None of the {len(self.trials)} trials of {self.name} came to its end: {reason}")
        return min(whole, key=lambda trial: (_value(trial), trial.number))

    def count(self, end: End) -> int:
        """How many trials ended so."""
        return sum(trial.end == end for trial in self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, and where it is written down.

    Attributes:
        name: of the study; the same name in the same storage is the same study.
        storage: URL of a relational database, as SQLAlchemy takes it.
        space: the parameters and their values.
        start: values of the first trial; may be a part of the parameters.
        trials: how many are to end, those of earlier calls and of other processes included.
        warm_up_epochs: in which no trial is pruned.
        seed: decides the parameters of each trial, given those that ended before it.
    """

    name: str
    storage: str
    space: Space
    start: Parameters
    trials: int
    warm_up_epochs: int
    seed: int


def search(asked: Search, run: TrialFunction, *, after_trial: Callable[[Study], None] = lambda _: None) -> Study:
    """Make trials until as many as asked have ended.

    Args:
        asked: what to search.
        run: makes one trial: takes its number, its parameters and a `report`, which it calls with each epoch (from 1)
            and its loss, and returns the trial's value. `report` raises what ends a trial that is not worth going on
            with; let it through. Whatever else it raises is written down as the trial's failure, and the search
            goes on.
        after_trial: called when a trial has ended, and once at the beginning, with all that ended so far.

    Raises:
        UsageError: the storage can't be opened.
        PipelineError: the storage broke while it was used.
    """
    with _quiet(), _opened(asked) as study:
        after_trial(_found(study))
        while len(_ended(study)) < asked.trials:
            _one(study, asked.space, run)
            after_trial(_found(study))
        return _found(study, importance=True)


def check_storage(url: str) -> None:
    """See that the database is there, before anything is done that it is to remember.

    Raises:
        UsageError: it can't be opened.
    """
    with _quiet():
        _connect(url).engine.dispose()


class _Sampler(optuna.samplers.BaseSampler):
    """Tree-structured Parzen estimators whose draws depend on the seed and the trial's number alone.

    A sampler that goes on drawing from one stream would, in a resumed study and in each of several processes, draw
    the first trials again. Mutable: the estimator, new for each trial.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0])
        self._tpe = optuna.samplers.TPESampler(seed=seed, warn_independent_sampling=False)
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._tpe.after_trial(study, trial, state, values)


@contextlib.contextmanager
def _opened(asked: Search) -> Iterator[optuna.Study]:
    """The study, made if there is none of its name; its first trial waits in it."""
    storage = _connect(asked.storage)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=asked.name,
            sampler=_Sampler(asked.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=asked.warm_up_epochs),
            load_if_exists=True,
        )
        if asked.start and not any(_is_or_will_be(trial, asked.start) for trial in study.get_trials(deepcopy=False)):
            study.enqueue_trial(asked.start)
        yield study
    except STORAGE_ERRORS as error:
        raise PipelineError(f"The study {asked.name} could not be written down: {_first_line(error)}") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _is_or_will_be(trial: FrozenTrial, parameters: Parameters) -> bool:
    """Whether a trial has tried these parameters, or somebody is going to end it: it waits, or its process lives."""
    given = trial.system_attrs.get("fixed_params", trial.params)
    if any(given.get(key) != value for key, value in parameters.items()):
        return False
    if trial.state == TrialState.RUNNING:
        return not _is_abandoned(trial)
    return trial.state == TrialState.WAITING or _is_ended(trial)


def _is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a running trial's process is gone, as after kill -9; one on another machine is taken to be there."""
    host, _, pid = str(trial.user_attrs.get(OWNER, "")).rpartition("/")
    if host != socket.gethostname():
        return not host
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and there
    return False


def _connect(url: str) -> optuna.storages.RDBStorage:
    """The database, with its tables."""
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        arguments = {"connect_args": {"timeout": LOCK_SECONDS}}
    try:
        for pause in OPENING_PAUSES_SECONDS:
            with contextlib.suppress(DatabaseError, optuna.exceptions.StorageInternalError):
                return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            time.sleep(pause)  # another process may be making the tables at this moment
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        raise UsageError(
            "The storage of the trials can't be opened. Expected the URL of a database that exists and may be written "
            "to, such as sqlite:////folder/file.db or postgresql://user:password@host/database, with its driver "
            f"installed. Its answer: {_first_line(error)}"
        ) from error


def _one(study: optuna.Study, space: Space, run: TrialFunction) -> None:
    """Make one trial and write down how it ended.

    A trial that is interrupted, as by Ctrl-C, fails without a reason, and doesn't count as one that ended; one whose
    process is killed stays as it is, and doesn't count either.
    """
    trial = study.ask()
    trial.set_user_attr(OWNER, f"{socket.gethostname()}/{os.getpid()}")

    def report(epoch: int, loss: float) -> None:
        trial.report(_finite(loss, when=f"in epoch {epoch}"), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        parameters = {key: _suggest(trial, key, values) for key, values in space.items()}
        value = _finite(run(trial.number, parameters, report), when="at the end")
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except STORAGE_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's
        trial.set_user_attr(REASON, _first_line(error))
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, value)


def _finite(loss: float, *, when: str) -> float:
    if not math.isfinite(loss):
        raise PipelineError(f"The loss is {loss} {when}: the training diverged.")
    return loss


def _suggest(trial: optuna.Trial, key: str, values: Range | Choice) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, values.values)
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return trial.suggest_float(key, values.low, values.high, log=values.log, step=values.step)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=tuple(ENDS))
    return [trial for trial in trials if _is_ended(trial)]


def _is_ended(trial: FrozenTrial) -> bool:
    """Whether it came to an end by itself; one that was interrupted fails without a reason."""
    return trial.state in ENDS and (trial.state != TrialState.FAIL or REASON in trial.user_attrs)


def _found(study: optuna.Study, *, importance: bool = False) -> Study:
    trials = tuple(_trial(trial) for trial in _ended(study))
    whole = sum(trial.end == "complete" for trial in trials)
    shares: dict[str, float] = {}
    if importance and whole >= FEWEST_FOR_IMPORTANCE:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # needs numpy only
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Study(study.study_name, trials, shares)


def _trial(trial: FrozenTrial) -> Trial:
    end = ENDS[trial.state]
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    seen = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
    value = trial.value if end == "complete" else min(seen, default=None)
    return Trial(trial.number, end, value, dict(trial.params), round(seconds, 3), trial.user_attrs.get(REASON))


def _value(trial: Trial) -> float:
    return math.inf if trial.value is None else trial.value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what Optuna logs and warns of is for our user: trials are told by the caller."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
