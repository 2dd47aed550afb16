"""Making one store of several, or of a part of one. The stores that are read are not changed.

The new store is filled shard by shard like an extraction's, so a run that was killed is ended by the same
command. If the store to write is one of those that are merged, its shards stay, and the others' videos
are added to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.errors import ConfigError, StoreError, counted, first_of, printable
from store.format import INDEX, VIDEOS, config_differences, read_records, store_folder
from store.ids import clash_of, near_ids
from store.index import StoreIndex
from store.moving import FIRST_NUMBER, Mover, Part, Report, alone_in, next_number
from store.plan import plan_shards
from store.read import FeatureStore
from store.records import VideoRecord
from store.write import explained

_WORST_FIRST = ("pending", "missing", "failed")
"""Of a video that no store has, the row that says most is kept."""
_PENDING = "not extracted yet"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What stands in a store after a merge or a subset."""

    folder: Path
    index: dict[str, Any]
    new: int
    """Videos that this run has copied; the others stood there already."""
    twice: int = 0
    """Videos that more than one store had, with the same features."""


@dataclass(kw_only=True)
class _Plan:
    """The store that is to be made."""

    dataset: str
    config: Mapping[str, Any]
    width: int
    run: Mapping[str, Any]
    parts: dict[str, Part] = field(default_factory=dict)
    absent: dict[str, VideoRecord] = field(default_factory=dict)
    """Listed videos without features."""
    sums: dict[Path, str] = field(default_factory=dict)
    twice: int = 0


def merge(
    folders: Sequence[Path], features: Path, on_progress: Report = lambda moved: None
) -> Written:
    """Make one store of the videos of several, below `features` as `extract` would.

    Raises:
        ConfigError: fewer than two different stores are named.
        StoreError: the stores were made differently, have other features of one video, or are damaged,
            or another store is in the place of the new one. Nothing is written then.
    """
    if len({folder.resolve() for folder in folders}) < 2:
        raise ConfigError("Name two or more different stores to merge.")
    stores = [FeatureStore(folder) for folder in folders]
    for store in stores[1:]:
        _check_alike(stores[0], store)
    plan = _plan_of(stores[0], _merged_run(stores))
    for store in stores:
        _add(plan, store)
    if clash := clash_of(plan.parts.keys() | plan.absent.keys()):
        raise StoreError(
            f"{counted(clash.pairs, 'id', 'contradicts', where='of one store')} ids of another (first: "
            f"{clash.shown(clash.one)} {clash.what} {clash.shown(clash.other)}), and one store cannot hold "
            "both. Leave them out of one: store subset DIR --videos FILE --out OTHER."
        )
    return _fill(plan, features, on_progress)


def subset(
    folder: Path,
    videos: Collection[str],
    features: Path,
    on_progress: Report = lambda moved: None,
    *,
    unlisted: bool = False,
) -> Written:
    """Make a store of some videos of another one, below `features` as `extract` would.

    Args:
        unlisted: accept ids that the store does not list; they are listed as not extracted yet.

    Raises:
        StoreError: the store has none of the videos, does not list one of them, or is damaged, or another
            store is in the place of the new one. Nothing is written then.
    """
    store = FeatureStore(folder)
    plan = _plan_of(store, store.index["run"])
    if store_folder(features, plan.dataset, plan.config).resolve() == folder.resolve():
        raise StoreError(
            f"{folder} would be written over itself. Give another --out; to remove videos from it, take "
            "them out of its benchmarks and run: store prune."
        )
    unknown = sorted(set(videos) - store.records.keys() - store.absent.keys())
    if unknown and not unlisted:
        raise StoreError(
            f"{counted(len(unknown), 'video', 'is', of=len(set(videos)))} not listed in {folder} "
            f"{first_of(unknown)}.{near_ids(unknown[0], store.records)} Correct the list, or take them out."
        )
    _add(plan, store, frozenset(videos))
    plan.absent |= {v: VideoRecord(video=v, status="pending", error=_PENDING) for v in unknown}
    if not plan.parts:
        raise StoreError(
            f"{folder} has features of none of the {counted(len(set(videos)), 'video')}. Nothing was written."
        )
    return _fill(plan, features, on_progress)


def _check_alike(a: FeatureStore, b: FeatureStore) -> None:
    if a.config != b.config:
        raise StoreError(
            f"{a.folder} and {b.folder} were made differently "
            f"({config_differences(a.config, b.config)}), and one store holds features of one kind. "
            "Extract one of them again with the options of the other."
        )
    if (a.index["dataset"], a.width) != (b.index["dataset"], b.width):
        raise StoreError(
            f"{a.folder} is of the data set {a.index['dataset']} with width {a.width}, {b.folder} of "
            f"{b.index['dataset']} with {b.width}. Only stores of one data set can be merged."
        )


def _plan_of(store: FeatureStore, run: Mapping[str, Any]) -> _Plan:
    return _Plan(dataset=store.index["dataset"], config=store.config, width=store.width, run=run)


def _merged_run(stores: Sequence[FeatureStore]) -> dict[str, Any]:
    """Return the first store's run block, and under `merged` those of all stores, each once."""
    runs: list[dict[str, Any]] = []
    for store in stores:
        run = dict(store.index["run"])
        inner = run.pop("merged", None)
        for one in inner if isinstance(inner, list) else [run]:
            if one not in runs:
                runs.append(one)
    return {**{k: v for k, v in stores[0].index["run"].items() if k != "merged"}, "merged": runs}


def _add(plan: _Plan, store: FeatureStore, only: frozenset[str] | None = None) -> None:
    """Add the videos of a store to a plan.

    Raises:
        StoreError: the plan has other features of a video already.
    """
    unlike = []
    for video, record in store.records.items():
        if only is not None and video not in only:
            continue
        known = plan.parts.get(video)
        if known is None:
            plan.parts[video] = Part(record, store.folder / record.shard)
        elif not _same(known.record, record):
            unlike.append((known, record))
        else:
            plan.twice += 1
    if unlike:
        known, record = unlike[0]
        raise StoreError(
            f"{counted(len(unlike), 'video', 'has')} other features in {store.folder} than in "
            f"{known.path.parent} (first: {printable(record.video)}: "
            f"{counted(record.frames, 'frame')}, crc32 "
            f"{record.crc32}, and {counted(known.record.frames, 'frame')}, {known.record.crc32}), "
            "and a store holds "
            f"one of them. See what differs: store compare {known.path.parent} {store.folder}. Then leave "
            "the wrong ones out: store subset DIR --videos FILE --out OTHER."
        )
    for video, row in store.absent.items():
        if only is None or video in only:
            other = plan.absent.get(video)
            if other is None or _says(row) > _says(other):
                plan.absent[video] = row
    plan.absent = {v: row for v, row in plan.absent.items() if v not in plan.parts}
    plan.sums |= {store.folder / s["file"]: s["sha256"] for s in store.index["shards"]}


def _same(a: VideoRecord, b: VideoRecord) -> bool:
    return (a.crc32, a.frames) == (b.crc32, b.frames)


def _says(row: VideoRecord) -> int:
    return _WORST_FIRST.index(row.status) if row.status in _WORST_FIRST else -1


def _fill(plan: _Plan, features: Path, on_progress: Report) -> Written:
    """Write what a plan has and its folder lacks, one shard after the other."""
    folder = store_folder(features, plan.dataset, plan.config)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        index = StoreIndex(folder, plan.dataset, plan.config, plan.width)
        _check_place(plan, index)
        todo = {v: part for v, part in plan.parts.items() if v not in index.stored}
        mover = Mover(index, todo.values(), plan.sums, on_progress)
        inside = {part.path.parent.resolve() for part in plan.parts.values()}
        least = FIRST_NUMBER if folder.resolve() in inside else 0
        listed = plan.parts.keys() | plan.absent.keys()
        for group in plan_shards({v: part.record.frames for v, part in todo.items()}):
            mover.write(next_number(folder, least=least), [todo[video] for video in group])
            index.write(listed, plan.absent, plan.run, locked=True)
        written, _ = index.write(listed, plan.absent, plan.run, locked=True)
    return Written(folder=folder, index=written, new=len(todo), twice=plan.twice)


def _check_place(plan: _Plan, index: StoreIndex) -> None:
    """Make sure that a folder holds nothing but what a plan would put there.

    Raises:
        StoreError: it holds or lists other videos, or other features.
    """
    foreign = sorted(index.stored.keys() - plan.parts.keys())
    unlike = [
        v
        for v in index.stored.keys() - set(foreign)
        if not _same(index.stored[v], plan.parts[v].record)
    ]
    if (index.folder / INDEX).exists():
        rows = {row.video for row in read_records(index.folder / VIDEOS)}
        foreign = sorted({*foreign, *(rows - plan.parts.keys() - plan.absent.keys())})
    if foreign or unlike:
        example = first_of(foreign or sorted(unlike))
        what = "not belonging there" if foreign else "with other features"
        raise StoreError(
            f"{index.folder} is another store: it has {counted(len(foreign or unlike), 'video')} "
            f"{what} {example}. "
            "Choose another --out, or merge it with the others by naming it too."
        )
