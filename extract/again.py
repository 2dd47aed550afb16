"""The backbone that made some features, for others that are to be made in the same way."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from extract import fused
from extract.backbone import Backbone, precision_of
from extract.config import ExtractConfig
from store.errors import StoreError, WeightsError
from store.format import config_differences
from store.recipe import Recipe, names_published

log = logging.getLogger(__name__)


def kind_of(recipe: Recipe) -> str:
    """What the features were made of: `videos`, or `frames` for folders of images."""
    return "frames" if recipe.config["decoder"] == "images" else "videos"


def backbone_by(
    recipe: Recipe,
    *,
    weights: str | None = None,
    device: str = "auto",
    nearest: bool = False,
    keep_damaged: bool = False,
) -> Backbone:
    """The backbone of a recipe, in the recipe's number form.

    Args:
        weights: as `extract --weights` takes them; None if the recipe's own note leads to them.
        device: auto, cpu, cuda, cuda:N or mps.
        nearest: where this machine cannot compute in the recipe's form, compute in its own instead.

    Raises:
        WeightsError: the weights cannot be found, or are others.
        StoreError: the recipe is incomplete, or this version or this machine cannot compute by it.
    """
    options = _options(recipe, weights, device, keep_damaged)
    backbone = Backbone(options, plain="inference" not in recipe.config)
    _check_same(backbone, recipe)
    if backbone.config != recipe.config:
        return _other_form(backbone, recipe, options, nearest)
    own = precision_of(backbone.device)
    if own != backbone.precision:
        log.warning(
            "The features were computed in %s; this machine would compute in %s by itself, and computes "
            "in %s now, as they were.",
            *(backbone.precision, own, backbone.precision),
        )
    return backbone


def exact_backbone(recipe: Recipe, weights: str | None = None) -> Backbone:
    """The backbone of a recipe in float32 on the CPU, whatever number form the recipe has.

    Raises:
        WeightsError, StoreError: as `backbone_by`.
    """
    options = dataclasses.replace(_options(recipe, weights, "cpu", False), precision="float32")
    backbone = Backbone(options)
    _check_same(backbone, recipe)
    return backbone


def _check_same(backbone: Backbone, recipe: Recipe) -> None:
    """Make sure that a backbone differs from a recipe by its number form at most."""
    found, expected = backbone.config, dict(recipe.config)
    if found["weights_sha256"] != expected["weights_sha256"]:
        raise WeightsError(
            f"The features were made otherwise: {config_differences(expected, found)}. Name the weights "
            f"that they were made with ({recipe.weights or 'unknown'}): --weights PATH."
        )
    form = dict.fromkeys(("inference", "compute_dtype"))
    if {**found, **form} != {**expected, **form}:
        raise StoreError(
            f"The features were made otherwise: {config_differences(expected, found)}. This version "
            "cannot make such features. Extract again, and train on those."
        )


def _options(recipe: Recipe, weights: str | None, device: str, keep_damaged: bool) -> ExtractConfig:
    recipe.check_complete()
    config = recipe.config
    named = names_published(config["backbone"], recipe.weights)
    if weights is None and not named and not Path(recipe.weights).is_file():
        raise WeightsError(
            f"The features were made with weights from a file ({recipe.weights or 'of unknown name'}) "
            "that is not here. Say where it is: --weights PATH."
        )
    return ExtractConfig(
        backbone=config["backbone"],
        weights=weights or recipe.weights,
        preset=config["preset"],
        stride=config["stride"],
        frames_per_video=config["frames_per_video"],
        precision=config["compute_dtype"],
        input=kind_of(recipe),
        keep_damaged=keep_damaged,
        device=device,
    )


def _other_form(
    backbone: Backbone, recipe: Recipe, options: ExtractConfig, nearest: bool
) -> Backbone:
    """The backbone in this machine's own number form, if that is accepted."""
    dtype, form = recipe.config["compute_dtype"], recipe.config["inference"]
    here = "a GPU" if backbone.device.type == "cuda" else "this processor"
    known = form == fused.FORM
    said = (
        f"The features were computed on a CPU in {dtype} ({form}), and {here} does not compute in this "
        "form"
    )
    if not nearest:
        remedy = "Use a machine whose processor has AMX or AVX512-BF16"
        if not known:
            remedy = "Use the version of this program that made them"
        elif backbone.device.type == "cuda" and fused.is_available():
            remedy = "Use --device cpu"
        raise StoreError(
            f"{said}. {remedy}, or accept features that are rounded otherwise: --nearest-precision."
        )
    own = Backbone(dataclasses.replace(options, precision="auto"))
    log.warning("%s: computing in %s instead (--nearest-precision).", said, own.precision)
    return own
