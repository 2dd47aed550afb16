"""Lists that a user writes about videos: which ones, which class a video has, or which group."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from store.errors import ManifestError, counted, printable, shortened
from store.ids import nfc
from store.plain_csv import read_table, text_of

DELIMITERS = ",;\t"
"""What spreadsheets write between the cells of a CSV, by the language that they are set to."""


@dataclass(frozen=True)
class Row:
    """One row of such a CSV."""

    where: str
    """The file and the line, for messages."""
    video: str
    """As it is written: an id, or the path of the file below the domain's folder."""
    value: str


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The rows of such a CSV, by the videos that they mean."""

    rows: Mapping[str, Row]
    """By id."""
    unknown: tuple[Row, ...]
    """Rows that mean no video."""


def read_video_list(path: Path, column: str) -> list[Row]:
    """Read a CSV with the columns `video` and `column`; the delimiter is that of its first line.

    Raises:
        ManifestError: there is no such file, it is no such CSV, or it lists no videos.
    """
    if not path.exists():
        raise ManifestError(
            f"There is no file {printable(path)}. It must be a CSV with the columns video,{column}."
        )
    table = read_table(path, ("video", column), delimiters=DELIMITERS)
    if not table:
        raise ManifestError(f"{printable(path)} lists no videos.")
    return [Row(where, row["video"], row[column]) for where, row in table]


def read_ids(path: Path) -> list[Row]:
    """Read a list of videos: one id a line, or a CSV whose first column is called `video`.

    A manifest and the videos.csv of a store are such CSVs. Empty lines are skipped.

    Raises:
        ManifestError: there is no such file, it is no text in UTF-8, or it lists no videos.
    """
    shown = printable(path)
    if not path.exists():
        raise ManifestError(f"There is no file {shown}. Write one id a line into it.")
    text = text_of(path)
    first = text.partition("\n")[0].rstrip("\r")
    between = max(DELIMITERS, key=first.count)
    if first.split(between)[0].strip('"') == "video":
        cells = csv.reader(io.StringIO(text, newline=""), delimiter=between)
        try:
            found = [(cells.line_num, row[0]) for row in cells if row][1:]
        except csv.Error as error:
            raise ManifestError(
                f"{shown}, line {cells.line_num}: this is no CSV ({error})."
            ) from error
    else:
        found = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    rows = [Row(f"{shown}, line {number}", video, "") for number, video in found if video]
    if not rows:
        raise ManifestError(f"{shown} lists no videos.")
    return rows


def match(rows: Iterable[Row], ids: Collection[str], suffixes: Collection[str]) -> Matched:
    """Find the videos that rows mean.

    Args:
        ids: the videos of a domain.
        suffixes: the endings of video files in lower case; one of them may follow an id.

    Raises:
        ManifestError: two rows mean one video, or a row could mean two.
    """
    spelled = {nfc(video): video for video in ids}
    found: dict[str, list[Row]] = {}
    unknown = []
    for row in rows:
        meant = {spelled[text] for text in _readings(row.video, suffixes) if text in spelled}
        if len(meant) > 1:
            raise ManifestError(
                f"{row.where}: {shortened(row.video)} could mean {' or '.join(sorted(meant))}. Write the "
                "shorter one without its suffix, and the other with the suffix of its file."
            )
        for video in meant:
            found.setdefault(video, []).append(row)
        if not meant:
            unknown.append(row)
    twice = [one for one in found.values() if len(one) > 1]
    if twice:
        first, second, *_ = twice[0]
        raise ManifestError(
            f"{counted(len(twice), 'video', 'stands')} there twice (first: "
            f"{shortened(second.video)}, in {first.where} "
            f"and in {second.where}). Remove one row of each."
        )
    return Matched(rows={video: one[0] for video, one in found.items()}, unknown=tuple(unknown))


def nearest(text: str, names: Iterable[str]) -> str:
    """Return a hint where a name differs from a known one in case or in spaces around it, else nothing."""
    wanted = nfc(text).strip().casefold()
    near = [name for name in names if nfc(name).strip().casefold() == wanted]
    return f"; is {shortened(near[0])} meant?" if near else ""


def elsewhere(text: str, ids: Iterable[str], suffixes: Collection[str]) -> str:
    """Return a hint where one video alone has the name of an unknown one, in another folder, else nothing."""
    wanted = {PurePosixPath(reading).name for reading in _readings(text, suffixes)}
    near = [video for video in ids if PurePosixPath(nfc(video)).name in wanted]
    return f"; is {shortened(near[0])} meant?" if len(near) == 1 else ""


def _readings(written: str, suffixes: Collection[str]) -> set[str]:
    """The ids that a text may be: itself, and itself without the suffix of a video file."""
    text = nfc(written).replace("\\", "/").removeprefix("./")
    path = PurePosixPath(text)
    if path.suffix.lower() not in suffixes:
        return {text}
    return {text, text[: -len(path.suffix)]}
