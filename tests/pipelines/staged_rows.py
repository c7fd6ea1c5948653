"""Rows of a source as ingest sees them, from columns in words, for tests of the pure rooms."""

from __future__ import annotations

from pipelines import manifest
from pipelines.rows import Rows
from pipelines.scan import STAGED_SCHEMA


def rows_of(told: dict[str, list]) -> Rows:
    """From columns as lists, in which None is null; what isn't told is null."""
    nothing = [None] * len(told["path"])
    columns = {name: told.get(name, nothing) for name in STAGED_SCHEMA.names}
    return Rows.of(manifest.table(columns, STAGED_SCHEMA))
