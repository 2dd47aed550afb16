"""`manifest label`: labels of some videos of a target without labels, for the accuracy alone."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import MANIFESTS, GivenPath
from commands.text import say
from extract.videos import VIDEO_SUFFIXES
from store import datasets
from store.errors import ManifestError, counted, printable
from store.files import explained
from store.labels import add_labels
from store.manifest import classes_of, read_manifest, write_manifest
from store.program import program


@click.command("label")
@click.argument("file", type=GivenPath())
@click.option("--benchmark", required=True, help="The benchmark that has the domain.")
@click.option("--domain", required=True, help="A domain that was made with --unlabelled.")
@MANIFESTS
def manifest_label(file: Path, benchmark: str, domain: str, root: Path) -> None:
    """Add the classes of some videos to a target without labels, so that there is an accuracy.

    FILE is a CSV with the columns video and class, with commas, semicolons or tabs between them. A video is
    named by its id or by the path of its file below the domain's folder. Training never sees these labels:
    all videos of the domain go on to train without them, and those with a label are evaluated too.

    \b
    Example:
      python cli.py manifest label labels.csv --benchmark mine --domain phone
    """
    domains = datasets.benchmarks(root).get(benchmark, ())
    if domain not in domains:
        what = f"has {', '.join(domains)}" if domains else "is not there"
        raise ManifestError(
            f"There is no domain {printable(domain)} of the benchmark {printable(benchmark)}, which {what}. "
            f"Run: {program()} manifest list"
        )
    tables = {d: read_manifest(datasets.manifest_path(benchmark, d, root)) for d in domains}
    classes = classes_of(*tables.values())
    added = add_labels(tables[domain], domain, file, classes, VIDEO_SUFFIXES)
    path = datasets.manifest_path(benchmark, domain, root)
    with explained(path, ManifestError, "Make room, then run the same command again."):
        write_manifest(path, added.videos)
    known = sum(video.label is not None for video in added.videos)
    say(
        f"{printable(path)}: {counted(known, 'video', 'has', of=len(added.videos))} a label now "
        f"({added.new} new, {added.changed} changed)\n"
        "  All of them train as before, without labels. The accuracy is that of the labelled ones, and it is "
        "transductive: these videos were in training.\n"
        f"Next:\n  {program()} evaluate RUN\n  {program()} runs list"
    )
