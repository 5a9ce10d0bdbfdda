"""Pictures beside one another as the page shows them: a row of rungs, a table of a grid."""

import html
import json
from typing import Any

from app.pictures import data_uri
from yoso_core.drawing import Result
from yoso_core.files.metadata import request_of, to_json
from yoso_core.sheets import Sheet

WAITING = '<div class="waiting"></div>'


class Looks:
    """Pictures that a click looks at, with all that each was made with, see ``scripts/sheet.js``.

    A picture that was given may be large and is the same for all of them, so each holds only what differs from the
    first.
    """

    def __init__(self, results: list[Result]) -> None:
        self.entries = [to_json(request_of(result, 0)) for result in results]
        self.pictures = [data_uri(result.pictures[0]) for result in results]

    @property
    def shared(self) -> str:
        """The attribute of the element that holds them all."""
        return f'data-entry="{_attribute(self.entries[0] if self.entries else {})}"'

    def button(self, index: int, title: str) -> str:
        first = self.entries[0]
        change = {name: value for name, value in self.entries[index].items() if first[name] != value}
        alt = html.escape(title)
        return (
            f'<button type="button" data-change="{_attribute(change)}" title="Look at it">'
            f'<img src="{self.pictures[index]}" alt="{alt}" draggable="false"></button>'
        )


def _attribute(value: Any) -> str:
    return html.escape(json.dumps(value))


def ladder_html(sheet: Sheet, results: list[Result]) -> str:
    """The rungs that are there, and places for the others."""
    looks, cells = Looks(results), ""
    for index, title in enumerate(sheet.columns):
        took = ""
        if index < len(results):
            result = results[index]
            took = f"<span>{result.evaluations} evaluation{'s' * (result.evaluations != 1)}</span> · "
            took += f"<span>{result.seconds['total'] * 1000:.0f} ms</span>"
        picture = looks.button(index, title) if took else WAITING
        cells += f"<figure>{picture}<figcaption><b>{html.escape(title)}</b> {took}</figcaption></figure>"
    notes = "".join(f'<p class="quiet">{html.escape(note)}</p>' for note in sheet.notes)
    return f'<div class="rungs" {looks.shared}>{cells}</div>{notes}'


def grid_html(sheet: Sheet, results: list[Result]) -> str:
    """The table of a grid, as far as its pictures are there."""
    looks, columns, rows = Looks(results), sheet.columns, ""
    for row, beside in enumerate(sheet.rows):
        cells = ""
        for column, above in enumerate(columns):
            index = row * len(columns) + column
            title = ", ".join(filter(None, (above, beside)))
            cells += f"<td>{looks.button(index, title) if index < len(results) else WAITING}</td>"
        rows += f'<tr><th scope="row">{html.escape(beside)}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{html.escape(above)}</th>' for above in columns)
    told = f"{sheet.column_title} across" + (f", {sheet.row_title} down" if sheet.row_title else "")
    told = " · ".join(filter(None, (sheet.title, sheet.subtitle, told)))
    return (
        f'<table {looks.shared} style="--columns: {len(columns)}"><caption>{html.escape(told)}</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
