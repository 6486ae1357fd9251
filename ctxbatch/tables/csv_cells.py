"""Writes values as CSV whose text a spreadsheet does not run.

A spreadsheet runs a cell that begins like a formula, and text comes from anybody.
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def text_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run: after ``'``, if it begins like a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_row(values: Iterable[Any]) -> str:
    """Return JSON values as a row of CSV without its line end; lists and objects as JSON, null as nothing."""
    row = io.StringIO()
    csv.writer(row).writerow(_cell(value) for value in values)  # quotes what is in its own line end
    return row.getvalue().removesuffix("\r\n")


def _cell(value: Any) -> Any:  # noqa: ANN401 (a JSON value; what csv writes)
    if isinstance(value, str):
        return text_cell(value)
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value
