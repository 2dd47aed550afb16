"""`manifest from-folder`: a benchmark of the user's own videos."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from commands.options import INPUT, MANIFESTS, GivenText
from commands.text import say
from extract.from_folders import from_folders
from extract.splits import DEFAULT_RULE, SplitRule, grouping
from store import datasets
from store.errors import ConfigError, ManifestError, counted, printable
from store.ids import why_no_name
from store.manifest import Video, has_no_labels, read_manifest
from store.options import parse_names
from store.own_benchmarks import refuse_name_clash, write_benchmark
from store.program import program


@click.command("from-folder")
@click.option("--benchmark", required=True, help="Name of the new benchmark.")
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="NAME=DIR",
    help="A domain with labels and its folder, in which every class has a folder. Give it once or more; "
    "with --update, for those to read again.",
)
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="NAME=DIR",
    help="A domain without labels and its folder, of any layout. It can only be a target; all its videos "
    "train, and all are predicted.",
)
@click.option(
    "--classes",
    type=GivenText(),
    metavar="A,B,...",
    help="Keep these classes alone. A name with a comma in it stands in double quotes.",
)
@click.option(
    "--eval-fraction",
    default=DEFAULT_RULE.eval_fraction,
    show_default=True,
    help="Share of the videos, or of groups, for evaluation, where no folders are named train and test.",
)
@click.option(
    "--split-seed",
    default=DEFAULT_RULE.seed,
    show_default=True,
    help="Another number gives other splits. A video's split depends only on it and on the id or group.",
)
@click.option(
    "--group-by",
    metavar="REGEX|FILE.csv",
    help="Keep groups of videos in one split, such as the clips of one film. A regular expression says with "
    "which beginning of the file's name (or with its part in parentheses) a group is named; a CSV has the "
    "columns video,group.",
)
@click.option(
    "--update",
    is_flag=True,
    help="Read folders of a benchmark again: new videos are added, others keep their split or label.",
)
@click.option("--overwrite", is_flag=True, help="Replace a benchmark of that name.")
@INPUT
@MANIFESTS
def manifest_from_folder(
    benchmark: str,
    domains: tuple[str, ...],
    unlabelled: tuple[str, ...],
    classes: str | None,
    eval_fraction: float,
    split_seed: int,
    group_by: str | None,
    update: bool,
    overwrite: bool,
    kind: str,
    root: Path,
) -> None:
    """Make a benchmark from your own folders: one folder per domain, and in it one folder per class.

    Only classes that all domains have are kept. About the share --eval-fraction of the videos is held out
    for evaluation. A hash of each id decides which, so adding videos moves no other. If folders named
    train and test stand above the classes, they are the splits. A target without labels is --unlabelled.

    \b
    Example:
      python cli.py manifest from-folder --benchmark mine --domain phone=DIR --domain cctv=DIR
      python cli.py manifest from-folder --benchmark mine --domain studio=DIR --unlabelled phone=DIR
      python cli.py manifest from-folder --benchmark mine --domain phone=DIR --update
    """
    if update and overwrite:
        raise ConfigError(
            "Give either --update, which keeps recorded splits, or --overwrite, which forgets them."
        )
    labelled, flat = _parse_domains(benchmark, domains, unlabelled)
    rule = SplitRule(eval_fraction=eval_fraction, seed=split_seed)
    groups = None if group_by is None else grouping(group_by)
    refuse_name_clash(benchmark, {}, root)  # before folders are read, which may take long
    path = root / benchmark
    if path.exists() and not (update or overwrite):
        raise ManifestError(
            f"{printable(path)} exists. Choose another --benchmark, or give --update to add new videos, or "
            "--overwrite to replace it."
        )
    recorded = _recorded(benchmark, root) if update else None
    made = from_folders(
        labelled,
        unlabelled=flat,
        rule=rule,
        groups=groups,
        classes=None if classes is None else parse_names(classes, "--classes"),
        kind=kind,
        recorded=recorded,
    )
    refuse_name_clash(benchmark, made.videos, root)
    write_benchmark(path, made.videos)
    folders = {**labelled, **flat}
    for domain, rows in made.videos.items():
        say(
            f"{printable(path / domain)}.csv: {_sizes(rows)}"
            + (_changes(recorded[domain], rows, read=domain in folders) if recorded else "")
        )
        for note in made.notes.get(domain, ()):
            say(f"  {note}")
    _say_classes(made.videos, recorded)
    _say_next(folders, made.videos, kind, root)


def _sizes(rows: Sequence[Video]) -> str:
    if has_no_labels(rows):
        known = sum(video.label is not None for video in rows)
        labels = f"{known} with a label for the accuracy" if known else "no labels"
        what = "which trains and is predicted"
        if len(rows) != 1:
            what = "which all train and are all predicted"
        return f"{counted(len(rows), 'video')}, {what}, {labels}"
    train = sum(video.split == "train" for video in rows)
    return f"{train} train, {len(rows) - train} eval"


def _recorded(benchmark: str, root: Path) -> dict[str, Sequence[Video]]:
    domains = datasets.benchmarks(root).get(benchmark)
    if domains is None:
        raise ManifestError(
            f"There is no benchmark {printable(root / benchmark)} to update. Without --update it is made."
        )
    return {d: read_manifest(datasets.manifest_path(benchmark, d, root)) for d in domains}


def _changes(before: Sequence[Video], now: Sequence[Video], *, read: bool) -> str:
    if not read:
        return " (not read again)"
    old, new = ({video.id for video in rows} for rows in (before, now))
    return f" ({len(new - old)} added, {len(old - new)} removed, {len(new & old)} kept)"


def _say_classes(
    videos: Mapping[str, Sequence[Video]], recorded: Mapping[str, Sequence[Video]] | None
) -> None:
    classes, before = _classes(videos), _classes(recorded or {})
    say(f"classes: {', '.join(sorted(classes, key=classes.__getitem__))}")
    if recorded and set(before) != set(classes):
        changes = [f"{name} is new" for name in sorted(set(classes) - set(before))]
        changes += [f"{name} is gone" for name in sorted(set(before) - set(classes))]
        say(
            f"WARNING: the classes changed ({', '.join(changes)}), and labels follow their sorted names. "
            "Features stay valid; runs that were trained before do not fit any more, train them again."
        )


def _classes(videos: Mapping[str, Sequence[Video]]) -> dict[str, int]:
    return {
        video.class_name: video.label
        for rows in videos.values()
        for video in rows
        if video.class_name is not None and video.label is not None
    }


def _say_next(
    folders: Mapping[str, Path], videos: Mapping[str, Sequence[Video]], kind: str, root: Path
) -> None:
    """Print the commands that come next, as they can be pasted into a shell."""
    elsewhere = "" if root == datasets.OWN_MANIFESTS else f" --manifests {_quoted(root)}"
    how = "" if kind == "videos" else f" --input {kind}"
    say("Next:")
    for domain, folder in folders.items():
        say(f"  {program()} extract --dataset {domain} --videos {_quoted(folder)}{how}{elsewhere}")
    named = [*folders, *(domain for domain in videos if domain not in folders)]
    flat = [domain for domain in named if has_no_labels(videos[domain])]
    source, *others = [domain for domain in named if domain not in flat]
    say(f"  {program()} adapt --source {source} --target {[*flat, *others][0]}{elsewhere}")


def _quoted(path: Path) -> str:
    """A path for the shell; what cannot be printed as an escape that bash and zsh read.

    There `\\xa0` is a byte, and not the character U+00A0 as in Python's escapes.
    """
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(map(_escaped, escaped))}'"


def _escaped(letter: str) -> str:
    if letter.isprintable() or letter.isascii():
        return printable(letter)
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))


def _parse_domains(
    benchmark: str, domains: Sequence[str], unlabelled: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """The folders of the domains with labels, and of those without."""
    if not (domains or unlabelled):
        raise click.UsageError("Missing option '--domain'.")
    labelled: dict[str, Path] = {}
    flat: dict[str, Path] = {}
    for option, items, folders in (("domain", domains, labelled), ("unlabelled", unlabelled, flat)):
        for item in items:
            name, equals, folder = item.partition("=")
            if not equals or not folder or name in folders:
                raise ConfigError(
                    f"--{option} must be NAME=DIR with different names, got {item!r}."
                )
            folders[name] = Path(folder)
    both = sorted(labelled.keys() & flat.keys())
    if both:
        raise ConfigError(
            f"{both[0]} is named by --domain and by --unlabelled. Either its folders are its labels, or it "
            "has none: give one of the two."
        )
    for name in (benchmark, *labelled, *flat):
        if reason := why_no_name(name):
            raise ConfigError(reason)
    return labelled, flat
