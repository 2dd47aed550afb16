"""Which stores the features come from, and what to do where some are missing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from store.datasets import OWN_MANIFESTS, dataset_of
from store.errors import StoreError, counted, first_of, printable
from store.format import FAILURES, config_differences, read_records
from store.manifest import Video
from store.program import program
from store.pull import left_behind
from store.read import FeatureStore, find_stores
from store.recipe import names_published


def stores_of(
    listed: Mapping[str, Sequence[Video]], features: Path, manifests: Path, chosen: str | None
) -> dict[str, FeatureStore]:
    """Find a store of each domain, all made with the same config.

    Args:
        listed: domain -> its videos, the target last.
        features, manifests: the folders of the stores and of the user's own benchmarks.
        chosen: as `choose_stores`.

    Raises:
        StoreError: a domain has none, or as `choose_stores`.
    """
    datasets = {domain: dataset_of(domain, manifests) for domain in listed}
    found = {domain: find_stores(features, dataset, chosen) for domain, dataset in datasets.items()}
    # What one domain's features were made with is what the others' should be made with.
    made = next((store for stores in found.values() for store in stores.values()), None)
    lacking = []
    for domain, stores in found.items():
        if not stores:
            videos = [video.id for video in listed[domain]]
            command = extract_command(datasets[domain], features, manifests, made)
            lacking.append(
                f"{counted(len(videos), f'{domain} video', 'has', of=len(videos))} no features in "
                f"{features / datasets[domain]} {first_of(videos)}. Run: {command}"
            )
    if lacking:
        raise StoreError("\n".join(lacking))
    return dict(zip(found, choose_stores(*found.values(), chosen=chosen)))


def choose_stores(*found: dict[str, FeatureStore], chosen: str | None) -> tuple[FeatureStore, ...]:
    """One store of each domain, all made with the same config; never a guess between several.

    Names alone do not tell: a folder may have been renamed, so the configs' sha256 are compared.

    Args:
        found: of each domain, the target last, its stores by folder name, which names the config; none
            is empty.
        chosen: folder name or the beginning of one, None if the user named none.

    Raises:
        StoreError: none or several fit; the message lists them and what differs.
    """
    first, *others = found
    everywhere = sorted(set(first).intersection(*others))
    common = [n for n in everywhere if all(_same_config(first[n], s[n]) for s in others)]
    if chosen is not None:
        fitting = [name for name in common if name.startswith(chosen)]
        if len(fitting) != 1:
            begins = counted(len(fitting), "store", "begins") if fitting else "No store begins"
            raise StoreError(
                f"{begins} with {chosen!r}. {'Both' if len(found) == 2 else 'All'} domains have: "
                f"{', '.join(common) or 'none'}."
            )
        common = fitting
    if not common:
        a, b = _unlike(found, everywhere)
        raise StoreError(
            "The features of source and target were made differently and cannot be mixed: "
            f"{a.folder} and {b.folder} differ in {config_differences(a.config, b.config)}. "
            "Extract one of them again with the other's options."
        )
    if len(common) > 1:
        base = first[common[0]].config
        lines = [f"  --store {common[0]}"] + [
            f"  --store {name}   ({config_differences(base, first[name].config)})"
            for name in common[1:]
        ]
        raise StoreError(
            "Several stores fit, made with different options. Choose one:\n" + "\n".join(lines)
        )
    return tuple(stores[common[0]] for stores in found)


def _unlike(
    found: Sequence[dict[str, FeatureStore]], everywhere: Sequence[str]
) -> tuple[FeatureStore, FeatureStore]:
    """Two stores of different domains that were made differently, of one name if there are such."""
    first, *others = found
    for name in everywhere:
        for stores in others:
            if not _same_config(first[name], stores[name]):
                return first[name], stores[name]
    a = next(iter(first.values()))
    lacking = next((stores for stores in others if a.folder.name not in stores), others[0])
    return a, next(iter(lacking.values()))


def _same_config(a: FeatureStore, b: FeatureStore) -> bool:
    return bool(a.index["config_sha256"] == b.index["config_sha256"])


def available(
    videos: Sequence[Video],
    store: FeatureStore,
    what: str,
    remedy: Callable[[Sequence[str]], str],
    *,
    allow_missing: bool,
) -> list[Video]:
    """The videos that the store has.

    Args:
        what: what they are called in a message, for example `ucf train`.
        remedy: gives the sentences that say how to get some missing videos.

    Raises:
        StoreError: some are missing and that is not allowed, or all are.
    """
    missing = [video.id for video in videos if video.id not in store]
    if missing and (not allow_missing or len(missing) == len(videos)):
        raise StoreError(
            f"{counted(len(missing), f'{what} video', 'has', of=len(videos))} no features in {store.folder} "
            f"{first_of(missing)}.{_reason(store, missing)}\n{remedy(missing)}\n"
            "or go on without them: --allow-missing"
        )
    return [video for video in videos if video.id in store]


def _reason(store: FeatureStore, missing: Sequence[str]) -> str:
    """What failures.csv says of the first missing video that it names."""
    try:
        failures = {r.video: r for r in read_records(store.folder / FAILURES) if r.error}
    except StoreError:  # its reasons are a help, not a condition
        return ""
    known = [failures[video] for video in missing if video in failures]
    if not known:
        return ""
    return f" {FAILURES} says of {len(known):,} of them why, e.g. {printable(known[0].error)}."


def how_to_get(
    missing: Sequence[str],
    store: FeatureStore,
    benchmark: str,
    dataset: str,
    features: Path,
    manifests: Path,
) -> str:
    """Say by which commands a store gets videos that it lacks, for a message.

    A video that stayed behind when the store was pulled is pulled; the others are extracted.

    Args:
        missing: their ids.
    """
    urls = [left_behind(store.absent.get(video)) for video in missing]
    lines = []
    for url in sorted(set(urls) - {""}):
        words = ["store", "pull", url]
        if features != Path("features"):
            words.append(str(features))
        words += ["--benchmark", benchmark]
        if manifests != OWN_MANIFESTS:
            words += ["--manifests", str(manifests)]
        count = f"{counted(urls.count(url), 'video', 'was', of=len(missing))} left in {url}"
        secret = "with your user and password in place of ***" if "***" in url else ""
        lines.append(
            f"{count}. Run{f', {secret}' if secret else ''}: {program()} {shlex.join(words)}"
        )
    if "" in urls:
        others = f"For the other {urls.count(''):,}, run" if lines else "Run"
        lines.append(f"{others}: {extract_command(dataset, features, manifests, store)}")
    return "\n".join(lines)


def extract_command(
    dataset: str, features: Path, manifests: Path, like: FeatureStore | None = None
) -> str:
    """The command that extracts a data set, or imports it where another store was imported.

    It has the options by which that store was made.

    Args:
        like: that store; None proposes the default options.
    """
    options: dict[str, object] = {"--dataset": dataset}
    if manifests != OWN_MANIFESTS:
        options["--manifests"] = manifests
    if features != Path("features"):
        options["--features"] = features
    if not (Path("data/videos") / dataset).is_dir():
        options["--videos"] = "DIR"
    if like is not None and "origin" in like.config:
        options |= {"--origin": like.config["origin"], "--name": like.config["backbone"]}
        options |= {"--dtype": like.dtype.name}
        options.pop("--videos", None)
        words = [word for flag, value in options.items() for word in (flag, str(value))]
        return f"{program()} store import --format FORMAT DIR {shlex.join(words)}"
    if like is not None:
        config, run = like.config, like.index["run"]
        weights = str(run.get("weights", ""))
        if weights and not names_published(str(config.get("backbone")), weights):
            weights = f"DIR/{weights}"  # of a file only the name is recorded
        for flag, value, default in (
            ("--backbone", config.get("backbone"), "resnet101"),
            ("--weights", weights, "imagenet1k_v1"),
            ("--preset", config.get("preset"), "ta3n"),
            ("--stride", config.get("stride"), 1),
            ("--frames-per-video", config.get("frames_per_video"), 0),
            ("--input", "frames" if config.get("decoder") == "images" else "videos", "videos"),
            ("--precision", config.get("compute_dtype"), None),
        ):
            if value not in (default, None, ""):
                options[flag] = value
    words = [word for flag, value in options.items() for word in (flag, str(value))]
    return f"{program()} extract {shlex.join(words)}"
