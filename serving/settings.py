"""The settings of `calotype serve`: flags first, then environment, then defaults, read once and checked.

Knows nothing of what the settings are for; every other room takes the finished object. A setting is one
field of `ServeSettings`: its flag, its environment variable, the text of `--help` and the row in
`docs/configuration.md` all follow from that field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from serving.errors import BadSetting
from serving.urls import is_url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 2**20
MODELS = Path("workspace/models")

_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What the world must know of one setting besides its default.

    Args:
        text: what it does, for `--help`.
        unit: what its number counts, empty for words.
        low: the least allowed number.
        high: the greatest allowed number.
        choices: the allowed words, empty for any.
    """

    text: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()


def _setting(default: Any, about: About) -> Any:
    return dataclasses.field(default=default, metadata={"about": about})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Everything that an operator may choose about the server, each within its bounds."""

    models: Path = _setting(  # noqa: RUF009 - a field, as below; MODELS is immutable
        MODELS,
        About(
            "The model repository: a folder of <name>/<version>/ folders, or a URL of one, such as s3://bucket/models."
        ),
    )
    cache: Path | None = _setting(  # noqa: RUF009 - a field
        None, About("The folder that a repository at a URL is mirrored into; none: one below XDG_CACHE_HOME.")
    )
    host: str = _setting("127.0.0.1", About("The address to listen on; 0.0.0.0 is every interface."))
    port: int = _setting(8001, About("The gRPC port; 0 is any free one.", "port", 0, 65535))
    http_port: int = _setting(
        8002, About("The port of /metrics, /livez and /readyz; 0 is any free one.", "port", 0, 65535)
    )
    max_batch_rows: int = _setting(
        64, About("The most rows in one model call; larger requests are split.", "rows", 1, 65536)
    )
    max_wait_ms: float = _setting(
        0.0,
        About("How long an idle executor waits for a batch to fill; 0 starts at once.", "ms", 0, 10_000),
    )
    max_queue_rows: int = _setting(
        2048, About("The most rows waiting per model version; more are refused at once.", "rows", 1, 10**7)
    )
    max_queue_bytes: int = _setting(
        256 * MIB, About("The most input bytes waiting per model version.", "bytes", 1024, 2**40)
    )
    executors: int = _setting(
        0,
        About(
            "Model calls at a time per model version; 0: one per CPU where calls are short, else one with all CPUs.",
            "calls",
            0,
            256,
        ),
    )
    workers: int = _setting(1, About("Processes on the gRPC port, each with all models.", "processes", 1, 256))
    max_streams: int = _setting(
        256,
        About(
            "The most bidirectional streams open at a time; and, by themselves, health Watches.", "streams", 1, 100_000
        ),
    )
    max_message_bytes: int = _setting(
        64 * MIB, About("The largest gRPC message taken or sent.", "bytes", 1024, 2**31 - 1)
    )
    max_image_pixels: int = _setting(
        64_000_000,
        About(
            "The largest encoded image, width times height; those of one request may have 16 times as many together.",
            "pixels",
            1,
            2**31 - 1,
        ),
    )
    poll_seconds: float = _setting(
        2.0, About("The pause between two looks at the repository.", "seconds", 0.01, 86_400)
    )
    drain_seconds: float = _setting(
        30.0, About("How long accepted calls may take to finish when stopping.", "seconds", 0, 3600)
    )
    transport: str = _setting(
        "auto",
        About(
            "What drives gRPC: the core's completion queue (fast), grpc.aio, or auto: core if it passes its self-test.",
            choices=("auto", "core", "aio"),
        ),
    )
    tls_certificate: Path | None = _setting(  # noqa: RUF009 - a field
        None, About("PEM file of the server's certificate; makes both ports TLS. Read again when it changes.")
    )
    tls_key: Path | None = _setting(None, About("PEM file of the certificate's private key."))  # noqa: RUF009 - a field
    tls_client_ca: Path | None = _setting(  # noqa: RUF009 - a field
        None, About("PEM file of those who sign clients' certificates; every client needs one then.")
    )
    http_plain: bool = _setting(False, About("Leave the HTTP port without TLS.", choices=("true", "false")))
    tokens: Path | None = _setting(  # noqa: RUF009 - a field
        None, About("File of the tokens, one of which every call needs then. Read again when it changes.")
    )
    log_format: str = _setting("text", About("How log lines are written.", choices=("text", "json")))
    log_level: str = _setting(
        "info", About("The least severe event logged.", choices=("debug", "info", "warning", "error"))
    )
    log_sample: int = _setting(
        1, About("Of the calls that went well one in so many is logged; failures always.", "calls", 1, 10**9)
    )

    models_url: str | None = None  # no setting: what `models` is a mirror of

    def __post_init__(self) -> None:
        for name in _fields():
            _check(name, getattr(self, name))
        if self.cache is not None and self.models_url is None:
            raise BadSetting("--cache goes with a --models that is a URL; a folder is read where it is.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadSetting("--tls-certificate and --tls-key go together: give both, or neither for plain text.")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise BadSetting("--tls-client-ca needs --tls-certificate and --tls-key: without TLS nobody shows one.")


def flag(name: str) -> str:
    """The command-line flag of a setting: `max_batch_rows` is `--max-batch-rows`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting: `max_batch_rows` is `CALOTYPE_MAX_BATCH_ROWS`."""
    return "CALOTYPE_" + name.upper()


def about(name: str) -> About:
    """What is known of one setting of `ServeSettings`."""
    return cast("About", _fields()[name].metadata["about"])


def defaults() -> dict[str, Any]:
    """Every setting's name and default, in the order in which they are documented."""
    return {name: field.default for name, field in _fields().items()}


def read(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> ServeSettings:
    """Make the settings of one server.

    Args:
        flags: setting name -> text as typed; None where the flag wasn't given.
        environment: usually `os.environ`; a variable that is set but empty counts as not set.

    Raises:
        BadSetting: a value that can't be read or is out of its bounds.
    """
    chosen: dict[str, Any] = {}
    for name, field in _fields().items():
        text = flags.get(name)
        if text is None:
            text = environment.get(variable(name)) or None
        if text is not None and name == "models" and is_url(text):
            chosen["models_url"] = text
        elif text is not None:
            chosen[name] = _parse(name, text, default=field.default)
    if "models_url" in chosen:
        chosen["models"] = chosen.get("cache") or _usual_cache(chosen["models_url"], environment)
    if "models" not in chosen and environment.get("CALOTYPE_WORKSPACE"):
        chosen["models"] = Path(environment["CALOTYPE_WORKSPACE"]) / "models"
    return ServeSettings(**chosen)


def _usual_cache(url: str, environment: Mapping[str, str]) -> Path:
    """The folder of a bucket below the user's caches; the same bucket has the same, whoever asks for it."""
    caches = environment.get("XDG_CACHE_HOME") or (f"{home}/.cache" if (home := environment.get("HOME")) else None)
    if caches is None:
        raise BadSetting("--models is a URL, and neither HOME nor XDG_CACHE_HOME is set: give --cache DIR.")
    return Path(caches) / "calotype" / hashlib.sha256(without_secrets(url).encode()).hexdigest()[:16]


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(ServeSettings) if "about" in field.metadata}


def _parse(name: str, text: str, *, default: Any) -> Any:
    if default is None or isinstance(default, Path):
        return Path(text)
    if isinstance(default, bool):
        return _WORDS.get(text.lower(), text)
    if isinstance(default, str):
        return text
    try:
        return type(default)(text)
    except ValueError:
        raise BadSetting(_sentence(name, text)) from None


def _check(name: str, value: Any) -> None:
    known = about(name)
    word = str(value).lower() if isinstance(value, bool) else value
    if known.choices and word not in known.choices:
        raise BadSetting(_sentence(name, value))
    # NaN compares false with everything, so the test is for being inside.
    if known.unit and not known.low <= value <= known.high:
        raise BadSetting(_sentence(name, value))
    if name == "host" and not value:
        raise BadSetting(_sentence(name, value))


def _sentence(name: str, received: object) -> str:
    known, default = about(name), _fields()[name].default
    if known.choices:
        expected = "one of " + ", ".join(known.choices)
    elif known.unit:
        noun = "a whole number" if isinstance(default, int) else "a number"
        expected = f"{noun} ({known.unit}) from {known.low:g} to {known.high:g}"
    else:
        expected = "a name or address"
    return f"{flag(name)} (or {variable(name)}) must be {expected}. Received: {str(received)!r}"
