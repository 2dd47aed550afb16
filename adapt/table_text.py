"""Tables as Markdown, and as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, columns in groups, rows of text, and notes below.

    Attributes:
        groups: title of a group -> titles of its columns; an empty title has no heading of its own.
        emphasised: (row, column) of cells that stand out.
        words: columns of words, not of numbers, beside the first.
    """

    title: str
    groups: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    emphasised: frozenset[tuple[int, int]] = frozenset()
    words: frozenset[int] = frozenset()


def as_markdown(tables: Sequence[Table]) -> str:
    """Every table below a heading of its own; the heading of a group stands before its columns' titles."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    titles = [
        f"{group}: {column}" if group else column
        for group, columns in table.groups
        for column in columns
    ]
    lines = [f"## {table.title}", "", _line(titles), "|---" * len(titles) + "|"]
    for number, row in enumerate(table.rows):
        bold = [f"**{c}**" if (number, at) in table.emphasised else c for at, c in enumerate(row)]
        lines.append(_line(bold))
    lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def as_page(title: str, tables: Sequence[Table]) -> str:
    """One HTML page of tables alone."""
    return html_page(title, [html_table(table) for table in tables])


def html_page(title: str, parts: Sequence[str], style: str = "") -> str:
    """One HTML page, light or dark as the reader's system is, which loads nothing.

    Args:
        parts: HTML, which is not escaped here.
        style: CSS that is added to that of the tables.
    """
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def html_table(table: Table) -> str:
    """A section of an HTML page: title, table in a box that scrolls sideways, notes. All text is escaped."""
    body = "\n".join(
        "<tr>" + "".join(_cell(text, table, number, at) for at, text in enumerate(row)) + "</tr>"
        for number, row in enumerate(table.rows)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f"<section>\n<h2>{html.escape(table.title)}</h2>\n<div><table>\n<thead>{_head(table)}</thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n<ul>{notes}</ul>\n</section>"
    )


def _head(table: Table) -> str:
    """One row of titles, or two where columns are grouped."""
    grouped = any(group for group, _ in table.groups)
    above, below, at = "", "", 0
    for group, columns in table.groups:
        if group:
            above += f'<th class="group" colspan="{len(columns)}">{html.escape(group)}</th>'
        for column in columns:
            kind = ' class="words"' if at in table.words else ""
            if grouped and not group:
                above += f'<th rowspan="2"{kind}>{html.escape(column)}</th>'
            else:
                below += f"<th{kind}>{html.escape(column)}</th>"
            at += 1
    return f"<tr>{above}</tr><tr>{below}</tr>" if grouped else f"<tr>{below}</tr>"


def _cell(text: str, table: Table, row: int, column: int) -> str:
    shown = html.escape(text)
    if column == 0:
        return f'<th scope="row">{shown}</th>'
    if (row, column) in table.emphasised:
        shown = f"<b>{shown}</b>"
    return f'<td class="words">{shown}</td>' if column in table.words else f"<td>{shown}</td>"


_STYLE = """
:root { color-scheme: light dark; --text: #1d2026; --page: #ffffff; --line: #d5d9e0; --soft: #5a6270;
  --band: #f4f6f9; --lead: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --page: #16181d; --line: #3a3f49;
  --soft: #a0a7b4; --band: #1f2229; --lead: #7db8f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 2rem auto; padding: 0 1.5rem; max-width: 90rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
section > div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .8rem; text-align: right; }
tbody th, thead tr:first-child th:first-child, .words { text-align: left; }
td.words { white-space: normal; max-width: 45rem; }
thead th { font-weight: 600; border-bottom: 1px solid var(--line); vertical-align: bottom; }
thead th.group { text-align: center; border-left: 1px solid var(--line); }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--page); }
tbody tr:nth-child(even) > * { background: var(--band); }
b { color: var(--lead); }
ul { color: var(--soft); font-size: .87rem; max-width: 60rem; padding-left: 1.2rem; }
"""
