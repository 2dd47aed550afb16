"""Which videos exist: benchmarks, domains, data sets, splits, classes.

A benchmark is a folder of `data/manifests` with one CSV per domain (columns video, label, class,
split, frames). A data set is what one downloads (`ucf101`); `datasets.csv` names the domain that it
feeds (`ucf`). A domain that no row names is its own data set.
"""

from __future__ import annotations

import csv
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.errors import ManifestError, first_of
from extract.files import find_videos, name_of, replacing

MANIFESTS = Path(__file__).resolve().parent.parent / "data" / "manifests"
COLUMNS = ("video", "label", "class", "split", "frames")
SPLITS = ("train", "eval")


@dataclass(frozen=True, kw_only=True)
class Video:
    """One row of a manifest."""

    id: str
    label: int
    class_name: str
    split: str
    frames: int | None
    """Published number of frames, None where nobody published one."""


def read_manifest(path: Path) -> tuple[Video, ...]:
    """Read and check one domain's CSV.

    Raises:
        ManifestError: the file is absent, or a row breaks a rule (the message names the line).
    """
    if not path.is_file():
        raise ManifestError(f"There is no manifest {path}. Run: python cli.py manifest list")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ManifestError(
                f"{path}: the columns must be {','.join(COLUMNS)}, got {','.join(reader.fieldnames or ())}."
            )
        videos = tuple(_parse(row, f"{path}, line {reader.line_num}") for row in reader)
    _check(videos, path)
    return videos


def benchmarks(root: Path = MANIFESTS) -> dict[str, tuple[str, ...]]:
    """Benchmark name -> its domains, both sorted.

    Raises:
        ManifestError: `root` is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(
            f"There is no folder of manifests at {root}. Run from a clone of the repository, "
            "or give --manifests."
        )
    return {
        folder.name: tuple(sorted(path.stem for path in folder.glob("*.csv")))
        for folder in sorted(root.iterdir())
        if folder.is_dir()
    }


def domain_of(dataset: str, root: Path = MANIFESTS) -> str:
    """The domain that a data set feeds: `ucf101` -> `ucf`.

    Raises:
        ManifestError: no benchmark has that domain; the message lists the known data sets.
    """
    table = _dataset_table(root)
    known = {domain for domains in benchmarks(root).values() for domain in domains}
    domain = table.get(dataset, dataset)
    if domain not in known:
        names = sorted(set(table) | (known - set(table.values())))
        raise ManifestError(
            f"There is no data set {dataset!r}. Known: {', '.join(names)}. Your own folders become one by: "
            "python cli.py manifest from-folder --benchmark mine --domain NAME=DIR --domain NAME=DIR"
        )
    return domain


def dataset_of(domain: str, root: Path = MANIFESTS) -> str:
    """The data set to extract for a domain: `ucf` -> `ucf101`."""
    return next((name for name, fed in _dataset_table(root).items() if fed == domain), domain)


def dataset_videos(dataset: str, root: Path = MANIFESTS) -> dict[str, int | None]:
    """Union of a data set's videos over all benchmarks, sorted by id: id -> published frames.

    Raises:
        ManifestError: the data set is unknown, or two benchmarks publish different counts.
    """
    domain = domain_of(dataset, root)
    union: dict[str, int | None] = {}
    for benchmark, domains in benchmarks(root).items():
        if domain not in domains:
            continue
        for video in read_manifest(root / benchmark / f"{domain}.csv"):
            known = union.get(video.id)
            if known is not None and video.frames not in (None, known):
                raise ManifestError(
                    f"{video.id} of {dataset} has {known} frames in one benchmark and "
                    f"{video.frames} in {benchmark}."
                )
            union[video.id] = known if known is not None else video.frames
    return dict(sorted(union.items()))


def choose_benchmark(
    source: str, target: str, name: str | None = None, root: Path = MANIFESTS
) -> str:
    """The benchmark `name`, or the one with the most videos that has both domains.

    Raises:
        ManifestError: no benchmark, or not the named one, has both domains.
    """
    having = [b for b, domains in benchmarks(root).items() if {source, target} <= set(domains)]
    pairs = "; ".join(f"{b}: {', '.join(d)}" for b, d in benchmarks(root).items())
    if source == target:
        raise ManifestError(f"Source and target are both {source!r}. Domains are: {pairs}.")
    if name is not None:
        if name not in having:
            raise ManifestError(
                f"Benchmark {name!r} does not have both {source!r} and {target!r}. Domains are: {pairs}."
            )
        return name
    if not having:
        raise ManifestError(
            f"No benchmark has both {source!r} and {target!r}. Domains are: {pairs}."
        )
    return max(having, key=lambda b: sum(_rows(root / b / f"{d}.csv") for d in (source, target)))


def classes_of(*manifests: Sequence[Video]) -> tuple[str, ...]:
    """Class names by label.

    Raises:
        ManifestError: two domains disagree about a label, or labels are not 0..N-1.
    """
    names: dict[int, str] = {}
    for video in (video for manifest in manifests for video in manifest):
        if names.setdefault(video.label, video.class_name) != video.class_name:
            raise ManifestError(
                f"Label {video.label} is {names[video.label]!r} in one domain and "
                f"{video.class_name!r} in the other {first_of([video.id])}."
            )
    if sorted(names) != list(range(len(names))):
        raise ManifestError(f"Labels must be 0 to {len(names) - 1}, got {sorted(names)}.")
    return tuple(names[label] for label in sorted(names))


def write_manifest(path: Path, videos: Iterable[Video]) -> None:
    """Check and write one domain's CSV, all or nothing.

    Raises:
        ManifestError: the rows break a rule.
    """
    videos = tuple(videos)
    _check(videos, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for v in videos:
            frames = "" if v.frames is None else v.frames
            writer.writerow([v.id, v.label, v.class_name, v.split, frames])


def from_folders(
    folders: Mapping[str, Path],
    *,
    eval_fraction: float = 0.3,
    seed: int = 0,
    kind: str = "videos",
) -> tuple[dict[str, tuple[Video, ...]], dict[str, dict[str, int]]]:
    """Manifests for own videos, one folder per class: (domain -> videos, domain -> class left out -> videos).

    Only classes that every domain has are kept; labels follow the sorted class names. Of each class a
    seeded share goes to eval: at least one video, and at least one stays in train (a class with a
    single video stays in train).

    Raises:
        ManifestError: fewer than two domains, no common class, or two files that would get one id.
    """
    if len(folders) < 2:
        raise ManifestError(f"Adaptation needs two domains or more, got {len(folders)}.")
    if not 0 < eval_fraction < 1:
        raise ManifestError(f"The share for eval must be between 0 and 1, got {eval_fraction}.")
    ids = {domain: _ids_by_class(folder, kind) for domain, folder in folders.items()}
    classes = sorted(set.intersection(*(set(by_class) for by_class in ids.values())))
    if not classes:
        listing = "; ".join(f"{d}: {', '.join(sorted(c)) or 'none'}" for d, c in ids.items())
        raise ManifestError(
            f"The domains have no class in common. A class is a folder of videos; found {listing}."
        )
    videos: dict[str, tuple[Video, ...]] = {}
    left_out: dict[str, dict[str, int]] = {}
    for domain, by_class in ids.items():
        rows: list[Video] = []
        for label, name in enumerate(classes):
            members = sorted(by_class[name])
            chosen = members.copy()
            random.Random(f"{seed}/{domain}/{name}").shuffle(chosen)
            n_eval = min(max(1, round(len(members) * eval_fraction)), len(members) - 1)
            held = set(chosen[:n_eval])
            rows += [
                Video(
                    id=member,
                    label=label,
                    class_name=name,
                    split="eval" if member in held else "train",
                    frames=None,
                )
                for member in members
            ]
        videos[domain] = tuple(rows)
        left_out[domain] = {c: len(by_class[c]) for c in sorted(by_class) if c not in classes}
    return videos, left_out


def refuse_name_clash(
    benchmark: str, videos: Mapping[str, Sequence[Video]], root: Path = MANIFESTS
) -> None:
    """Make sure that a new benchmark's domains do not take the name of other videos.

    A data set is the union of its domain over all benchmarks, so one name must mean one pile of videos.

    Raises:
        ManifestError: a name is a data set's, or another benchmark has that domain with no video in common.
    """
    table = _dataset_table(root)
    for domain, rows in videos.items():
        others = [b for b, names in benchmarks(root).items() if domain in names and b != benchmark]
        known = {v.id for b in others for v in read_manifest(root / b / f"{domain}.csv")}
        if table.get(domain, domain) != domain or (known and known.isdisjoint(v.id for v in rows)):
            owner = others[0] if others else "datasets.csv"
            raise ManifestError(
                f"The name {domain!r} is taken by other videos ({owner}). Choose another, e.g. my-{domain}."
            )


def _ids_by_class(folder: Path, kind: str) -> dict[str, list[str]]:
    paths = {path: name_of(path, kind) for path in find_videos(folder, kind)}
    stems = Counter(name.name for name in paths.values())
    bare = Counter(paths.values())
    twins = sorted(str(path) for path, name in paths.items() if bare[name] > 1)
    if twins:
        raise ManifestError(
            f"{len(twins)} files of {folder} differ from another only in the suffix {first_of(twins)}. "
            "Remove or rename one of each."
        )
    first = {name.parts[0] for name in paths.values()}
    by_class: dict[str, list[str]] = {}
    for path, name in paths.items():
        if len(path.parts) > 1:  # a file beside the class folders belongs to no class
            unique = stems[name.name] == 1 and name.name not in first
            video = name.name if unique else str(name)
            _check_id(video, str(folder / path))
            by_class.setdefault(path.parts[0], []).append(video)
    return by_class


def _parse(row: dict[str, str], where: str) -> Video:
    if None in row or None in row.values():
        raise ManifestError(f"{where}: expected {len(COLUMNS)} columns.")
    _check_id(row["video"], where)
    if row["split"] not in SPLITS:
        raise ManifestError(f"{where}: split must be train or eval, got {row['split']!r}.")
    for column in ("label", "frames"):
        blank_is_fine = column == "frames" and row[column] == ""
        if not blank_is_fine and not (row[column].isascii() and row[column].isdigit()):
            raise ManifestError(f"{where}: {column} must be a number, got {row[column]!r}.")
    return Video(
        id=row["video"],
        label=int(row["label"]),
        class_name=row["class"],
        split=row["split"],
        frames=int(row["frames"]) if row["frames"] else None,
    )


def _check_id(video: str, where: str) -> None:
    """An id names an HDF5 dataset and the end of a relative path; it must not lead anywhere else."""
    parts = video.split("/")
    unsafe = any(c == "\\" or unicodedata.category(c) in ("Cc", "Cs") for c in video)
    if unsafe or any(part in ("", ".", "..") for part in parts):
        raise ManifestError(
            f"{where}: {video!r} is no video id. An id is a file name without its suffix, or class/name: "
            "no empty part, no '.' or '..', no backslash, no control character."
        )


def _check(videos: Sequence[Video], path: Path) -> None:
    if not videos:
        raise ManifestError(f"{path} lists no videos.")
    counts = Counter(video.id for video in videos)
    twice = [video for video, count in counts.items() if count > 1]
    if twice:
        raise ManifestError(f"{path}: {len(twice)} ids stand there twice {first_of(twice)}.")
    folders = {str(parent) for v in counts for parent in PurePosixPath(v).parents}
    clashing = sorted(folders & set(counts))
    if clashing:
        raise ManifestError(
            f"{path}: {len(clashing)} ids are also the folder of another id {first_of(clashing)}. "
            "Rename those videos."
        )
    pairs = {(video.label, video.class_name) for video in videos}
    if not len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}):
        raise ManifestError(f"{path}: labels and classes do not correspond one to one.")


def _dataset_table(root: Path) -> dict[str, str]:
    path = root / "datasets.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["dataset"]: row["domain"] for row in csv.DictReader(file)}


def _rows(path: Path) -> int:
    return len(read_manifest(path))
