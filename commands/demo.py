"""`python cli.py demo`: the commands of README, run one after the other on videos made here."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import click

from extract.synthetic import DOMAINS, make_collection

BACKBONE = "resnet18"
PER_ACTION = 18
METHODS = {
    "source only": ["--method", "source-only"],
    "MA2L-TD": ["--method", "ma2l-td"],
}
TRAINING = ["--levels", "3", "--discriminator-width", "256", "--epochs", "40", "--batch-size", "16"]


def run_demo(folder: Path, main: click.Group) -> None:
    """Run every step through `main` and end with a table.

    Raises:
        click.ClickException: the folder holds something else, or a step failed.
    """
    mark = folder / ".demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise click.ClickException(f"{folder} holds other files. Choose another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
    begin = time.monotonic()

    def run(*arguments: str) -> None:
        click.secho(f"\n$ python cli.py {shlex.join(arguments)}", bold=True)
        main(list(arguments), standalone_mode=False)

    source, target = DOMAINS
    for domain in DOMAINS:
        count = make_collection(folder / "videos" / domain, domain, per_action=PER_ACTION)
        click.echo(f"Made {count} videos of moving shapes in {folder / 'videos' / domain}")

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
        path = folder / "runs" / name.replace(" ", "-").lower()
        run(
            "adapt",
            "--source",
            source,
            "--target",
            target,
            *method,
            *TRAINING,
            "--run",
            str(path),
            *places,
        )
    run("evaluate", str(path))
    _table(folder, weights, time.monotonic() - begin)


def _weights() -> str:
    from extract.weights import has_weights

    click.echo(
        f"\nLooking for ImageNet weights of {BACKBONE} (the default of extract is resnet101) ..."
    )
    if has_weights(BACKBONE, "imagenet1k_v1"):
        click.echo("Found: features of a network that has seen ImageNet.")
        return "imagenet1k_v1"
    click.echo("None here and none to download: seeded random weights instead, a weaker eye.")
    return "random:0"


def _table(folder: Path, weights: str, seconds: float) -> None:
    from adapt.runs import RunFolder

    click.echo(f"\n{' -> '.join(DOMAINS)}, {BACKBONE} with {weights}, one seed, last epoch")
    click.echo(
        f"{'method':<14} {'overall':>8} {'95 % interval':>16} {'class mean':>11} {'videos':>7}"
    )
    for name in METHODS:
        result = RunFolder(folder / "runs" / name.replace(" ", "-").lower()).result()
        interval = f"{result.low:.1f} to {result.high:.1f}"
        click.echo(
            f"{name:<14} {result.overall:>8.2f} {interval:>16} {result.class_mean:>11.2f} {result.videos:>7}"
        )
    click.echo(f"\nEverything is in {folder}; it took {seconds:.0f} s.")
