"""Who may call what: bearer tokens from a file, each with the models it is good for; knows no transport.

`Tokens.grant` is the question of the desk, for every call; `guarded` asks about models, for every method that has one,
so that no method can be added and forgotten: one without a place in the tables here doesn't build.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from serving.calls import Answer
from serving.errors import BadSetting, PermissionDenied, Unauthenticated
from serving.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from serving.calls import Call, Method

HEADER: Final = "authorization"

_PAUSE_SECONDS: Final = 0.5
_SCHEME: Final = "bearer "

_MODEL_FIELDS: Final = {
    "Classify": "model", "StreamClassify": "model", "Reconstruct": "model", "StreamReconstruct": "model",
    "ModelReady": "name", "ModelMetadata": "name", "ModelConfig": "name", "ModelStatistics": "name",
    "ModelInfer": "model_name", "ModelStreamInfer": "model_name",
}  # fmt: skip
"""Methods about one model, and the field of the request that names it; empty is all of them."""

_LISTS: Final = {"ListModels": "models", "RepositoryIndex": "models", "ModelStatistics": "model_stats"}
"""Methods that tell of many models, and the field of the answer that has them."""

_OPERATORS: Final = ("RepositoryModelLoad", "RepositoryModelUnload")
"""Methods that change what everybody gets."""

_OF_NO_MODEL: Final = ("ServerLive", "ServerReady", "ServerMetadata")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do.

    Args:
        models: names of the models that it may call; None: all, and it may load and unload them.
    """

    models: frozenset[str] | None = None

    def allows(self, model: str) -> bool:
        """Whether it may call this model."""
        return self.models is None or model in self.models


class Tokens:
    """The tokens of one file; read again when it changes.

    A line is a token, then the models that it may call, between blanks or commas; none: all. Empty lines, and those
    that begin with `#`, say nothing. Only digests of the tokens are kept.

    Args:
        path: the file.
        pause_seconds: between two looks at it.

    Raises:
        BadSetting: it can't be read, or holds no token.
    """

    def __init__(self, path: Path, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._path = path
        self._key = secrets.token_bytes(32)
        self._grants = Watched((path,), self._read, pause_seconds=pause_seconds)

    def grant(self, metadata: Mapping[str, str | bytes]) -> Grant:
        """What the caller that sent `metadata` may do.

        Raises:
            Unauthenticated: it sent no token, or one that isn't in the file.
        """
        value = metadata.get(HEADER, "")
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if not text.lower().startswith(_SCHEME):
            raise Unauthenticated(
                f"This server needs a token: send the metadata (or header) {HEADER!r} with the value 'Bearer <token>'."
            )
        given, found = self._digest(text[len(_SCHEME) :].strip()), None
        # All are compared, each in constant time, so that the time of an answer tells nothing of any token.
        for digest, grant in self._grants.get().items():
            if hmac.compare_digest(digest, given):
                found = grant
        if found is None:
            raise Unauthenticated("The token is not one of this server's; ask its operator for one.")
        return found

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32).digest()

    def _read(self) -> dict[bytes, Grant]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise BadSetting(f"--tokens {self._path} can't be read: {why}.") from error
        grants: dict[bytes, Grant] = {}
        for line in lines:
            token, *models = re.split(r"[\s,]+", line.strip())
            if token and not token.startswith("#"):
                digest = self._digest(token)
                grants[digest] = _both(grants.get(digest), Grant(frozenset(models) if models else None))
        if not grants:
            raise BadSetting(f"--tokens {self._path} holds no token: a line is a token, then the models it may call.")
        return grants


def guarded(methods: Iterable[Method], tokens: Tokens) -> tuple[Method, ...]:
    """The methods, each of which refuses models that its caller's token isn't good for, and lists only the others.

    Raises:
        KeyError: a method that nobody decided about.
    """
    return tuple(dataclasses.replace(method, start=_guard(method, tokens)) for method in methods)


def _guard(method: Method, tokens: Tokens) -> Callable[[Any, Call], Future[Any]]:
    name, start = method.name, method.start
    listed = _LISTS.get(name)
    if name in _OPERATORS:
        field = "model_name"
    elif listed is None and name not in _OF_NO_MODEL:
        field = _MODEL_FIELDS[name]
    else:
        field = _MODEL_FIELDS.get(name, "")

    def guard(request: Any, call: Call) -> Future[Any]:
        grant = tokens.grant(call.metadata)
        if grant.models is None:
            return start(request, call)
        model = getattr(request, field) if field else ""
        if name in _OPERATORS:
            raise PermissionDenied(f"{name} needs a token that is good for all models; this one is for some.")
        if (model or not listed) and field and not grant.allows(model):
            raise PermissionDenied(f"This token is not good for the model {model!r}.")
        future = start(request, call)
        return future if listed is None else _listing(future, listed, grant)

    return guard


def _listing(source: Future[Any], field: str, grant: Grant) -> Future[Any]:
    answer: Answer[Any] = Answer()

    def visible(response: Any) -> Any:
        models = getattr(response, field)
        allowed = [model for model in models if grant.allows(model.name)]
        del models[:]
        models.extend(allowed)
        return response

    answer.follow(source, visible)
    return answer


def metrics_for(grant: Grant, exposition: bytes) -> bytes:
    """Those lines of a Prometheus exposition that tell of no model, or of one that the grant allows."""
    if grant.models is None:
        return exposition
    lines = exposition.decode().splitlines(keepends=True)
    return "".join(line for line in lines if _visible(line, grant)).encode()


def _visible(line: str, grant: Grant) -> bool:
    model = re.search(r'[{,]model="([^"]*)"', line)
    return line.startswith("#") or model is None or model[1] == "" or grant.allows(model[1])


def _both(one: Grant | None, other: Grant) -> Grant:
    if one is None:
        return other
    if one.models is None or other.models is None:
        return Grant()
    return Grant(one.models | other.models)
