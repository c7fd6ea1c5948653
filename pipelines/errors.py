"""What can go wrong while a folder becomes a bundle; knows no exit status (`cli.py` maps them).

The sentence says what is wrong, what was expected, what was received, and the cure.
"""

from __future__ import annotations


class PipelineError(Exception):
    """The root of the errors below; on its own: a run that failed for a reason that can be told."""


class UsageError(PipelineError):
    """What was asked for can't be done: a bad folder, option or recipe. Nothing was left behind."""


class BadSource(UsageError):
    """SOURCE is missing, unreadable, or not laid out as the task needs."""


class EmptyFolder(BadSource):
    """SOURCE holds no image that can be used."""


class BadRecipe(UsageError):
    """An option out of its bounds, an unknown name, or a pairing that makes no sense."""


class Busy(PipelineError):
    """Another process has its turn with the model; wait for it, or come again."""


class Refused(PipelineError):
    """The gate said no; the run is kept and nothing was published."""


class ParityFailed(Refused):
    """The exported graph doesn't answer as the Keras model does; the run failed, and the same command tries again."""
