"""What a person sees of a result: tables on stderr, since stdout carries results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipelines.ingest import IngestResult

FATES = ("train", "validation", "test", "duplicate", "conflict", "quarantined", "ignored")
MOST_LABELS = 40
MOST_FILES = 20
MOST_CONFLICTS = 10


def pairs(title: str, rows: Mapping[str, Any]) -> Group:
    """Names beside values."""
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value if isinstance(value, str) else number(value)))
    return Group(Text(title, style="bold"), table)


def rows(title: str, header: Sequence[str], body: Sequence[Sequence[Any]]) -> Group:
    """A table with a header; words to the left, numbers to the right."""
    table = Table()
    for at, name in enumerate(header):
        is_words = not body or isinstance(body[0][at], str)
        table.add_column(name, justify="left" if is_words else "right", overflow="fold")
    for line in body:
        table.add_row(*(cell(value) for value in line))
    return Group(Text(title, style="bold"), table)


def cell(value: Any) -> Text:
    r"""A value on one line, as it is: a name may hold a line break, shown as `\n`, and what looks like markup."""
    words = value if isinstance(value, str) else number(value)
    if not words.isprintable():
        words = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in words)
    return Text(words)


def number(value: Any) -> str:
    """A count with separators, a fraction with four digits, a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def ingested(result: IngestResult) -> list[Group]:
    """An ingest: what became of the files, by label; what was quarantined and why; what to look at."""
    fates = [fate for fate in FATES if any(counts.get(fate) for counts in result.per_label.values())]
    body = [[label or "(no label)", *(counts.get(fate, 0) for fate in fates)] for label, counts in _labels(result)]
    body.append(["all", *(sum(counts.get(fate, 0) for counts in result.per_label.values()) for fate in fates)])
    title = f"{result.dataset}, snapshot {result.snapshot}: {result.new:,} files new, {result.unchanged:,} unchanged"
    if result.removed:
        title += f", {result.removed:,} removed"
    tables = [rows(title, ["label", *fates], body)]
    if result.reasons:
        tables.append(rows("Quarantined", ["reason", "files"], list(result.reasons.items())))
        listed = [[one["path"], one["reason"]] for one in result.quarantined[:MOST_FILES]]
        all_of_them = len(listed) == result.images["quarantined"]
        title = "Which they are" if all_of_them else f"The first {len(listed)} of them"
        tables.append(rows(title, ["file", "reason"], listed))
    if result.conflicts:
        tables.append(_conflicts(result.conflicts))
    if result.near_duplicates is not None:
        tables.append(_near_duplicates(result.near_duplicates))
    if result.warnings:
        tables.append(rows("To look at", ["warning"], [[warning] for warning in result.warnings]))
    lines = [
        image_line(result),
        f"Samples of each label: {result.contact_sheet}",
        f"Every file and its fate: {result.path}/manifest.parquet",
    ]
    if result.images["ignored"]:
        tables.append(rows("Ignored", ["reason", "files"], list(result.ignored.items())))
    tables.append(Group(Text("\n".join(lines) + "\n")))
    return tables


def image_line(result: IngestResult) -> str:
    """What the images of a dataset become, and which of them made it a colour one."""
    image, colour = result.image, result.colour
    kind = "gray" if image["channels"] == 1 else "colour"
    if colour["first"] is not None:
        have = "has" if colour["images"] == 1 else "have"
        kind += f" ({colour['images']:,} {have} colour, the first: {cell(colour['first'])})"
    return (
        f"Images become {image['height']}x{image['width']}, {kind}, by {image['resize']} where their size is another. "
        "Size and colour stay until told (--image-size)"
    )


def _conflicts(conflicts: Sequence[Mapping[str, Any]]) -> Group:
    """The first conflicts, with the paths that are in each."""
    body = [
        [paths[0], ", ".join(paths[1:]) or "groups of several parts, which it joins"]
        for paths in (conflict["paths"] for conflict in conflicts[:MOST_CONFLICTS])
    ]
    title = "Conflicts" if len(body) == len(conflicts) else f"The first {len(body)} of the conflicts"
    return rows(title, ["file", "in conflict with"], body)


def _near_duplicates(found: Mapping[str, Any]) -> Group:
    """How many pairs of near-duplicates lie in two parts, and the first of them."""
    title = f"Near-duplicates in different parts: {found['count']:,} pairs"
    if not found["count"]:
        return Group(Text(title, style="bold"))
    shown = found["pairs"][:MOST_CONFLICTS]
    if found["count"] > len(shown):
        title += f", the first {len(shown)}"
    return rows(f"{title} (--group-near-duplicates keeps them in one)", ["file", "looks like"], shown)


def _labels(result: IngestResult) -> list[tuple[str, Mapping[str, int]]]:
    """The labels that a screen has room for, and the rest as one."""
    labels: list[tuple[str, Mapping[str, int]]] = list(result.per_label.items())
    if len(labels) <= MOST_LABELS:
        return labels
    rest: dict[str, int] = {}
    for _, counts in labels[MOST_LABELS:]:
        for fate, count in counts.items():
            rest[fate] = rest.get(fate, 0) + count
    return [*labels[:MOST_LABELS], (f"… {len(labels) - MOST_LABELS} more", rest)]
