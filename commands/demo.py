"""`demo`: the commands of README, run one after the other on videos made here."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from commands.text import say
from extract.synthetic import DOMAINS, make_collection
from store.program import program

BACKBONE = "resnet18"
PER_ACTION = 18
_FRAMES = ["--frames", "9"]
METHODS = {
    "source only": ["--method", "source-only", *_FRAMES],
    "AdaBN, with input norm": ["--method", "source-only", "--preset", "shared", *_FRAMES],
    "MA2L-TD (robust)": ["--method", "ma2l-td", "--levels", "3", "--discriminator-width", "256"],
}
TRAINING = ["--epochs", "40", "--batch-size", "16"]


def run_demo(folder: Path, main: click.Group) -> None:
    """Run every step through `main` and print a table at the end.

    Raises:
        click.ClickException: the folder holds something else, or a step failed.
        SystemExit: a step was stopped; its exit code is that of the step.
    """
    mark = folder / ".demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise click.ClickException(f"{folder} holds other files. Choose another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
    begin = time.monotonic()

    def run(*arguments: str) -> None:
        say(f"\n$ {program()} {shlex.join(arguments)}", bold=True)
        code = main(list(arguments), standalone_mode=False)
        if code:  # Ctrl-C during a command, or a reader of the output that has gone
            say("The demo stops here. When it is run again, it begins anew.", err=True)
            sys.exit(code)

    source, target = DOMAINS
    for domain in DOMAINS:
        count = make_collection(folder / "videos" / domain, domain, per_action=PER_ACTION)
        say(f"Made {count} videos of moving shapes in {folder / 'videos' / domain}")

    places = ["--manifests", str(folder / "manifests")]
    pairs = [f"{domain}={folder / 'videos' / domain}" for domain in DOMAINS]
    run(
        "manifest",
        "from-folder",
        "--benchmark",
        "demo",
        "--domain",
        pairs[0],
        "--domain",
        pairs[1],
        "--eval-fraction",
        "0.5",
        *places,
    )

    weights = _weights()
    places += ["--features", str(folder / "features")]
    for domain in DOMAINS:
        videos = ["--videos", str(folder / "videos" / domain)]
        run(
            "extract",
            "--dataset",
            domain,
            *videos,
            "--backbone",
            BACKBONE,
            "--weights",
            weights,
            *places,
        )

    for name, method in METHODS.items():
        path = _run_of(folder, name)
        run(
            "adapt",
            "--source",
            source,
            "--target",
            target,
            *method,
            *TRAINING,
            "--no-baselines",
            "--run",
            str(path),
            *places,
        )
    run("evaluate", str(path))
    _table(folder, weights, time.monotonic() - begin)


def _weights() -> str:
    from extract.weights import has_weights

    say(f"\nLooking for ImageNet weights of {BACKBONE} (the default of extract is resnet101) ...")
    if has_weights(BACKBONE, "imagenet1k_v1"):
        say("Found them.")
        return "imagenet1k_v1"
    say(
        "None are here and none can be downloaded, so the demo uses seeded random weights, which see less."
    )
    return "random:0"


def _run_of(folder: Path, name: str) -> Path:
    return folder / "runs" / re.sub(r"\W+", "-", name.lower()).strip("-")


def _table(folder: Path, weights: str, seconds: float) -> None:
    from adapt.runs import RunFolder

    say(f"\n{' -> '.join(DOMAINS)}, {BACKBONE} with {weights}, one seed, last epoch")
    say(f"{'method':<30} {'overall':>8} {'95 % interval':>16} {'class mean':>11} {'videos':>7}")
    for name in METHODS:
        result = RunFolder(_run_of(folder, name)).accuracy()
        interval = f"{result.low:.1f} to {result.high:.1f}"
        say(
            f"{name:<30} {result.overall:>8.2f} {interval:>16} {result.class_mean:>11.2f} {result.videos:>7}"
        )
    say(f"\nEverything is in {folder}; it took {seconds:.0f} s.")
