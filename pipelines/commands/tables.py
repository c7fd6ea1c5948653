"""What a person sees of a result: tables on stderr, since stdout carries results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipelines.ingest import IngestResult

PARTS = ("train", "validation", "test")


def pairs(title: str, rows: Mapping[str, Any]) -> Table:
    """Names beside values."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value if isinstance(value, str) else number(value))
    return table


def rows(title: str, header: Sequence[str], body: Sequence[Sequence[Any]]) -> Table:
    """A table with a header; words to the left, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for at, name in enumerate(header):
        is_words = not body or isinstance(body[0][at], str)
        table.add_column(name, justify="left" if is_words else "right", overflow="fold")
    for line in body:
        table.add_row(*(value if isinstance(value, str) else number(value) for value in line))
    return table


def number(value: Any) -> str:
    """A count with separators, a fraction with four digits, a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def ingested(result: IngestResult) -> list[Table]:
    """An ingest: what became of the files, and what to look at."""
    fates = {name: count for name, count in result.images.items() if count or name in PARTS}
    fates |= {"new": result.new, "unchanged": result.unchanged, "removed": result.removed}
    tables = [pairs(f"{result.dataset}: {len(result.labels)} labels, snapshot {result.snapshot}", fates)]
    if result.warnings:
        tables.append(rows("To look at", ["warning"], [[warning] for warning in result.warnings]))
    if result.quarantined:
        listed = [[one["path"], one["reason"]] for one in result.quarantined[:20]]
        tables.append(rows("Quarantined", ["file", "reason"], listed))
    return tables
