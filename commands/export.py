"""`export`: a finished run as one file that needs none of this code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.bar import StageProgress
from commands.options import QUIET, GivenPath, GivenText
from commands.output import refuse_standing
from commands.text import say
from store.errors import ConfigError, Ma2lError, counted, printable

if TYPE_CHECKING:
    import numpy as np

    from adapt.checkpoint import Trained
    from store.recipe import Recipe

log = logging.getLogger(__name__)

FORMATS = ("pt2", "onnx")
_TRIED = 8
"""Videos of the run's target that the exported model is tried on."""


@click.command("export")
@click.argument("run", type=GivenPath())
@click.option(
    "--out", type=GivenPath(), required=True, help="The file to write; nothing is replaced."
)
@click.option(
    "--with-backbone",
    is_flag=True,
    help="Take prepared frames instead of features: the backbone is in the file, in float32.",
)
@click.option(
    "--weights",
    type=GivenText(),
    help="With --with-backbone: where the backbone's weights are, if they are not published ones.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="pt2",
    show_default=True,
    help="pt2: a program of torch.export; onnx: needs the packages onnx, onnxscript and onnxruntime.",
)
@QUIET
def export_command(
    run: Path, out: Path, with_backbone: bool, weights: str | None, form: str
) -> None:
    """Write a run's model as one file: features of whole videos, or frames, to probabilities.

    The model picks the frames that the run looks at by itself, so a video may have any number of them.
    Class names, preprocessing and the recipe of the features are in the file. It is read back and compared
    with the run's own predictions before it gets its name; a difference above 1e-4 is refused. How to use
    it: docs/export.md.

    \b
    Example:
      python cli.py export runs/a --out model.pt2
      python cli.py export runs/a --with-backbone --out model.pt2
    """
    if out.suffix != f".{form}":
        raise ConfigError(f"--out must end in .{form} with --format {form}, got {printable(out)}.")
    if weights and not with_backbone:
        raise ConfigError("--weights is read only with --with-backbone. Leave it out.")
    refuse_standing(out, "--out")
    from adapt.export import FromFrames, check_onnx, exported, feature_cases, frame_cases
    from adapt.whole import WholeVideos
    from commands.classify import load_run, recipe_of
    from store.files import explained, replacing

    if form == "onnx":
        check_onnx()
    with StageProgress("export", 2) as stage:
        stage("loading the model")
        trained = load_run(run)
        module: Any = WholeVideos(trained.model, trained.config)
        recipe = trained.recipe
        if with_backbone:
            from extract.again import exact_backbone

            recipe = recipe_of(run, trained)
            backbone = exact_backbone(recipe, weights)
            module = FromFrames(backbone.module(), module)
            cases = frame_cases(trained, backbone.frames.crop, backbone)
        else:
            cases = feature_cases(trained, _target_videos(run))
        stage("exporting it and comparing it with the run")
        data = exported(module, cases, _about(trained, recipe, with_backbone), form)
    with explained(out, ConfigError, "Make room, or name another file."), replacing(out) as partial:
        partial.write_bytes(data)
    say(
        f"{printable(out)}: {len(data) / 1e6:,.1f} MB, takes {'frames' if with_backbone else 'features'}; "
        f"on {counted(len(cases), 'input')} it predicts as the run does. How to use it: docs/export.md"
    )


def _about(trained: Trained, recipe: Recipe | None, with_backbone: bool) -> dict[str, Any]:
    """What the file says of itself; docs/export.md describes it."""
    import torch

    config = recipe.config if recipe is not None else {}
    names = ("resize", "crop", "interpolation", "antialias", "crop_mode", "mean", "std", "stride")
    form = (
        "uint8 RGB (frames, crop, crop, 3)" if with_backbone else "float32 (videos, frames, width)"
    )
    return {
        "input": f"{'frames' if with_backbone else 'features'} of whole videos, {form}",
        "output": f"probabilities, float32 ({'' if with_backbone else 'videos, '}classes)",
        "classes": list(trained.classes),
        "width": trained.backbone_width,
        "preprocessing": {k: config[k] for k in (*names, "frames_per_video") if k in config},
        "recipe": recipe.as_dict() if recipe is not None else None,
        "run": trained.config.as_dict(),
        "torch": torch.__version__,
    }


def _target_videos(run: Path) -> list[np.ndarray]:
    """Features of some videos of the run's target, none where they are not at hand."""
    from adapt.recorded import target_store
    from adapt.runs import RunFolder, run_folders

    if run.is_file():
        return []
    try:
        with target_store(*RunFolder(run_folders(run)[0]).read(), None, None) as (store, _):
            return [store.read(video) for video in sorted(store.records)[:_TRIED]]
    except Ma2lError as error:
        log.warning("The exported model is tried on made-up features alone: %s", error)
        return []
