"""Reading CSV files that a user may have saved with another program: completely, or not at all."""

from __future__ import annotations

import codecs
import csv
import io
import stat
from collections.abc import Sequence
from pathlib import Path

from store.errors import ManifestError, counted, printable, shortened

MAX_BYTES = 256 << 20
"""No table of videos is larger than this. A larger file is not read into memory."""
_AS_UTF8 = "Save it as CSV in UTF-8."


def read_table(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), delimiters: str = ","
) -> list[tuple[str, dict[str, str]]]:
    """Read the rows of a UTF-8 CSV; a byte order mark is allowed.

    Args:
        optional: columns that may follow `columns`.
        delimiters: what may stand between the cells; the first line decides.

    Returns:
        Per row, where it stands (`<path>, line <number>`), and column -> cell. Lines that are empty, or of
        empty cells as spreadsheets leave them at the end, are skipped.

    Raises:
        ManifestError: the file is no plain file, too large, not UTF-8 or no CSV, or has other columns.
    """
    shown = printable(path)
    text = text_of(path)
    between = max(delimiters, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=between)
    rows: list[tuple[str, dict[str, str]]] = []
    header: list[str] | None = None
    while True:
        where = f"{shown}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ManifestError(
                f"{where}: this is no CSV ({error}). Is a quotation mark missing, or one too many?"
            ) from error
        if cells is None:
            break
        if header is None:
            header = cells
            if tuple(header) != (*columns, *optional):
                _check_header(shown, header, columns)
        elif any(cell.strip() for cell in cells):
            if len(cells) != len(header):
                raise ManifestError(
                    f"{where}: expected {counted(len(header), 'column')}, got {len(cells)}."
                )
            rows.append((where, dict(zip(header, cells))))
    if header is None:
        raise ManifestError(f"{shown} is empty: its first line must be {','.join(columns)}.")
    return rows


def _check_header(shown: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if tuple(header) != tuple(columns):
        raise ManifestError(
            f"{shown}: the columns must be {','.join(columns)}, got {shortened(','.join(header))}."
        )


def text_of(path: Path) -> str:
    """Return the text of a file, without its byte order mark.

    Raises:
        ManifestError: it is no plain file, too large, or not UTF-8.
    """
    shown = printable(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a FIFO or a device may never end
        raise ManifestError(f"{shown} is not a plain file. Put a CSV in its place, or remove it.")
    if status.st_size > MAX_BYTES:
        raise ManifestError(
            f"{shown} has {status.st_size:,} bytes, and no list of videos has more than "
            f"{MAX_BYTES:,}. Is it another file?"
        )
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ManifestError(f"{shown} is in UTF-16. {_AS_UTF8}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{shown}, line {_line(data, error.start)}: the byte 0x{data[error.start]:02x} is not UTF-8; "
            f"the file may be in Latin-1 or Windows-1252. {_AS_UTF8}"
        ) from error
    if "\0" in text:
        raise ManifestError(
            f"{shown}, line {_line(data, data.index(0))}: there is a NUL byte, so it is damaged, no text, or "
            f"in UTF-16. {_AS_UTF8}"
        )
    return text


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
