"""`predict`: from features and from files the same, what is refused, and what an unreadable file changes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from conftest import Road, edited_json, toy_arguments

import adapt
from adapt.bank import FeatureBank
from adapt.checkpoint import load_model
from adapt.prediction import predict
from adapt.runs import RunFolder
from commands.labels import Labelled, labels_text
from extract import fused, weights
from extract.again import backbone_by
from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.stream import Extracted, stream
from extract.synthetic import write_video
from store import FeatureStore
from store.errors import StoreError, WeightsError
from store.manifest import read_manifest
from store.recipe import Recipe

CPU = ("--device", "cpu")
SMALL = ExtractConfig(
    backbone="mobilenet_v3_small", weights="random:0", device="cpu", precision="float32"
)


def table_of(result: Result) -> pd.DataFrame:
    assert result.exit_code == 0, result.output
    return pd.read_csv(io.StringIO(result.stdout))


def change_checkpoint(run: Path, **values: object) -> None:
    """Write other values into a run's checkpoint and note its new sha256."""
    path = run / "checkpoint.pt"
    checkpoint = {**torch.load(path, weights_only=True), **values}
    torch.save({k: v for k, v in checkpoint.items() if v is not None}, path)
    with edited_json(run / "done.json") as done:
        done["checkpoint_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_whole_target_from_cached_features(cli, road: Road, tmp_path: Path) -> None:
    result = cli("predict", road.run, *CPU, "--out", tmp_path / "labels.csv")
    assert result.exit_code == 0 and "10 videos are predicted" in result.stderr
    table = pd.read_csv(tmp_path / "labels.csv")
    listed = read_manifest(road.root / "manifests" / "mine" / "night.csv")
    assert list(zip(table["video"], table["split"])) == [(v.id, v.split) for v in listed]
    recorded = pd.read_csv(road.run / "predictions.csv")
    held_out = table[table["split"] == "eval"]
    assert held_out["video"].tolist() == recorded["video"].tolist()
    assert held_out["class"].tolist() == recorded["predicted"].tolist()
    np.testing.assert_allclose(held_out["probability"], recorded["probability"], atol=6e-5)
    assert (table["probability"] >= table["second_probability"]).all()
    assert (table["second_probability"] >= table["third_probability"]).all()


def test_files_and_their_cached_features_give_the_same(cli, road: Road) -> None:
    cached = table_of(cli("predict", road.run, *CPU, "--all"))
    night = road.root / "night"
    found = cli("predict", road.run, night / "spin" / "spin_01.mp4", night, night, *CPU, "--all")
    table = table_of(found)
    assert table["video"].tolist()[0] == str(night / "spin" / "spin_01.mp4")
    assert len(table) == len(cached) == 10
    table["video"] = [str(Path(v).relative_to(night).with_suffix("")) for v in table["video"]]
    both = cached.merge(table, on="video")
    assert len(both) == 10 and (both["class_x"] == both["class_y"]).all()
    for name in [c for c in cached if c.startswith("p(") or c.endswith("probability")]:
        np.testing.assert_allclose(both[f"{name}_x"], both[f"{name}_y"], atol=1e-3)
    columns = [c for c in cached if c.startswith("p(")]
    assert len(columns) == 5
    np.testing.assert_allclose(cached[columns].sum(axis=1), 1, atol=1e-5)


def test_a_file_that_is_named_in_several_ways_is_predicted_once(
    cli, road: Road, tmp_path: Path
) -> None:
    from commands.classify import _videos_in

    videos = sorted((road.root / "night").rglob("*.mp4"))
    (tmp_path / "link.mp4").symlink_to(videos[0])
    (tmp_path / "folder").symlink_to(road.root / "night")
    # Behind the link "..", is the folder of the real one.
    again = tmp_path / "folder" / ".." / "night" / videos[0].relative_to(road.root / "night")
    found = _videos_in([videos[0], again, road.root / "night", tmp_path / "link.mp4"], "videos")
    assert list(found) == [*map(str, videos), str(tmp_path / "link.mp4")]


def test_a_checkpoint_alone_is_enough_for_files(cli, road: Road, tmp_path: Path) -> None:
    alone = Path(shutil.copy(road.run / "checkpoint.pt", tmp_path / "alone.pt"))
    video = road.root / "night" / "ring" / "ring_00.mp4"
    outputs = [cli("predict", run, video, *CPU).stdout for run in (road.run, alone)]
    assert outputs[0] == outputs[1] and "ring_00.mp4," in outputs[0]
    result = cli("predict", alone, *CPU)
    assert (
        result.exit_code == 1 and "does not say where the features of its target" in result.output
    )
    (tmp_path / "no.pt").write_bytes(b"nothing")
    result = cli("predict", tmp_path / "no.pt", video, *CPU)
    assert result.exit_code == 1 and "is not a checkpoint of this program" in result.output


def test_broken_files_are_named_and_the_rest_is_done(cli, road: Road, tmp_path: Path) -> None:
    videos = Path(shutil.copytree(road.root / "night" / "ring", tmp_path / "videos"))
    whole = (videos / "ring_00.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "notes.xyz").write_text("not read")
    out = tmp_path / "labels.jsonl"
    result = cli("predict", road.run, videos, *CPU, "--out", out)
    assert result.exit_code == 3, result.output
    assert f"{videos / 'cut.mp4'}: " in result.stderr and "notes.xyz" in result.stderr
    assert "1 video could not be predicted" in result.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(row["video"]).name for row in rows] == ["ring_00.mp4", "ring_01.mp4"]
    assert set(rows[0]) == {
        *("video", "class", "probability", "second", "second_probability", "third"),
        "third_probability",
    }
    result = cli("predict", road.run, videos / "cut.mp4", *CPU, "--out", tmp_path / "none.csv")
    assert result.exit_code == 1 and "None of 1 video could be predicted" in result.output
    assert not (tmp_path / "none.csv").exists()


def test_listed_videos_without_features_are_named(cli, road: Road, tmp_path: Path) -> None:
    manifests = Path(shutil.copytree(road.root / "manifests", tmp_path / "manifests"))
    path = manifests / "mine" / "night.csv"
    path.write_text(path.read_text().replace("ring_01", "ring_99"))
    result = cli("predict", road.run, *CPU, "--manifests", manifests)
    assert result.exit_code == 3, result.output
    assert "1 of 10 night videos has no features" in result.stderr
    assert "ring_99" in result.stderr and len(result.stdout.splitlines()) == 10


def test_no_file_is_replaced(cli, road: Road, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    result = cli("predict", road.run, *CPU, "--out", out)
    assert result.exit_code == 2 and "exists, and is not replaced" in result.output
    assert out.read_text() == "mine"
    result = cli("predict", road.run, *CPU, "--out", tmp_path / "no" / "labels.csv")
    assert result.exit_code == 2 and "There is no folder" in result.output


def test_stopped_by_the_user_it_writes_nothing(
    cli, road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("adapt.ensemble.classify_picked", stop)
    result = cli("predict", road.run, road.root / "night", *CPU, "--out", tmp_path / "labels.csv")
    assert result.exit_code == 130 and "Stopped; nothing was written." in result.output
    assert not list(tmp_path.iterdir())


REFUSED = {
    "absent": (["{root}/no.mp4"], 2, "There is no "),
    "empty": (["{root}/manifests"], 2, "There is no video in "),
    "unread with paths": (["{root}/night", "--features", "{root}"], 2, "only without paths"),
    "unread without": (["--weights", "random:0"], 2, "only with paths of videos"),
    "other weights": (["{root}/night", "--weights", "random:1"], 1, "otherwise: weights_sha256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(cli, road: Road, case: str) -> None:
    arguments, code, message = REFUSED[case]
    result = cli("predict", road.run, *(a.format(root=road.root) for a in arguments), *CPU)
    assert result.exit_code == code and message in " ".join(result.output.split()), result.output


def test_a_run_that_did_not_record_the_recipe(cli, road: Road, tmp_path: Path) -> None:
    """Its store says it, while that is there; a run of an older version has neither entry."""
    run = road.copied_run(tmp_path / "run")
    change_checkpoint(run, recipe=None, config=None)
    with edited_json(run / "config.json") as record:
        del record["data"]["recipe"]
    video = road.root / "night" / "ring" / "ring_00.mp4"
    assert cli("predict", run, video, *CPU).stdout == cli("predict", road.run, video, *CPU).stdout
    record["data"]["features"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(record))
    result = cli("predict", run, video, *CPU)
    assert result.exit_code == 1 and "It is not known how the features of" in result.output
    result = cli("predict", run / "checkpoint.pt", video, *CPU)
    assert result.exit_code == 1 and "holds no config of its run" in result.output


def test_a_recipe_that_says_too_little(cli, problem: Path, road: Road) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    result = cli("predict", problem / "run", road.root / "night", *CPU)
    assert result.exit_code == 1
    assert "does not say preset, frames_per_video, decoder, compute_dtype." in result.output


def test_a_folder_of_seeds_is_no_run_to_export(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "seeds", "--seeds", "0,1")).exit_code == 0
    result = cli("export", problem / "seeds", "--out", problem / "model.pt2")
    assert result.exit_code == 1
    assert f"holds 2 runs and is none itself. Name one of them (first: {problem / 'seeds'}" in (
        result.output
    )


def test_random_draws_do_not_depend_on_the_other_videos(
    cli, problem: Path, device: torch.device
) -> None:
    assert cli(*toy_arguments(problem, "run", "--preset", "released")).exit_code == 0
    run = RunFolder(problem / "run")
    config, _ = run.read()
    assert config.eval_draws == 5
    model = load_model(run, config).model
    [folder] = (problem / "features" / "right").iterdir()
    with FeatureStore(folder) as store:
        features = [store.read(video) for video in store.records]
    found = adapt.predict(problem / "run", features, device=device.type).probabilities
    for x, probabilities in list(zip(features, found))[:5]:
        alone = predict(model, FeatureBank([x], torch.device("cpu")), config).softmax(dim=1)[0]
        np.testing.assert_allclose(probabilities, alone.numpy(), atol=1e-5)


def test_features_of_chosen_frames_are_those_of_the_store(road: Road) -> None:
    [folder] = (road.root / "features" / "night").iterdir()
    videos = sorted((road.root / "night").rglob("*.mp4"))[:4]
    chosen = np.array([1, 5, 11])
    backbone = Backbone(SMALL)
    with FeatureStore(folder) as store:
        assert backbone.config == store.config
        work = [(str(v.relative_to(road.root / "night").with_suffix("")), v) for v in videos]
        results = list(stream(backbone, work, lambda count: chosen, workers=2))
        assert sorted(r.video for r in results) == sorted(name for name, _ in work)
        for result in results:
            assert isinstance(result, Extracted) and result.frames == 12
            np.testing.assert_array_equal(result.features_KD, store.read(result.video)[chosen])


def recipe_for(**changes: object) -> Recipe:
    return Recipe({**Backbone(SMALL).config, **changes}, "random:0")


def test_another_number_form_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_for()
    for fast, said in ((False, 0), (True, 1)):
        monkeypatch.setattr("extract.backbone.has_fast_bfloat16", lambda fast=fast: fast)
        caplog.clear()
        assert backbone_by(recipe, device="cpu").config == recipe.config
        assert len(caplog.messages) == said
    assert caplog.messages[0] == (
        "The features were computed in float32; this machine would compute in bfloat16 by itself, and "
        "computes in float32 now, as they were."
    )


def test_plain_bfloat16_is_computed_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor would take the fused form, and the features were not made in it."""
    monkeypatch.setattr(fused, "is_available", lambda: True)
    recipe = recipe_for(compute_dtype="bfloat16")
    assert backbone_by(recipe, device="cpu").config == recipe.config


def test_a_form_that_is_not_computed_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "is_available", lambda: False)
    monkeypatch.setattr("extract.backbone.has_fast_bfloat16", lambda: False)
    recipe = recipe_for(compute_dtype="bfloat16", inference=fused.FORM)
    with pytest.raises(
        StoreError, match=r"this processor does not compute in this form\. Use a mach"
    ):
        backbone_by(recipe, device="cpu")
    backbone = backbone_by(recipe, device="cpu", nearest=True)
    assert backbone.config["compute_dtype"] == "float32" and "inference" not in backbone.config
    assert "computing in float32 instead (--nearest-precision)" in caplog.messages[-1]
    with pytest.raises(StoreError, match="Use the version of this program that made them"):
        backbone_by(recipe_for(compute_dtype="bfloat16", inference="other"), device="cpu")


def test_recipes_that_this_version_cannot_follow() -> None:
    with pytest.raises(StoreError, match=r"were made otherwise: resize: 999 or 224\. This version"):
        backbone_by(recipe_for(resize=999), device="cpu")
    moved = dataclasses.replace(recipe_for(), weights="mine.pth")
    with pytest.raises(WeightsError, match=r"from a file \(mine.pth\) that is not here"):
        backbone_by(moved, device="cpu")


def test_weights_from_a_file_are_named_again(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.pth")
    torch.save(weights.load_model("mobilenet_v3_small", "random:3")[0].state_dict(), path)
    backbone = Backbone(dataclasses.replace(SMALL, weights=path))
    recipe = Recipe(backbone.config, backbone.weights_note)
    assert recipe.weights == "mine.pth"
    assert backbone_by(recipe, weights=path, device="cpu").config == backbone.config
    with pytest.raises(WeightsError, match=r"they were made with \(mine.pth\): --weights PATH"):
        backbone_by(recipe, weights="random:3", device="cpu")


def test_tables_of_few_classes_and_strange_names() -> None:
    rows = [Labelled('a\r"b\n.mp4', np.array([0.25, 0.75]))]
    text = labels_text(rows, ["x", "y, z"], everything=True, form="csv")
    assert pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False).to_dict("records") == [
        {
            **{"video": 'a\r"b\n.mp4', "class": "y, z", "probability": 0.75, "second": "x"},
            **{"second_probability": 0.25, "third": "", "third_probability": ""},
            **{"p(x)": 0.25, "p(y, z)": 0.75},
        }
    ]
    [line] = labels_text(rows, ["x", "y, z"], everything=True, form="jsonl").splitlines()
    assert json.loads(line)["third"] is None
    assert json.loads(line)["probabilities"] == {"x": 0.25, "y, z": 0.75}


def test_damaged_files_are_predicted_from_their_whole_frames_if_asked(
    cli, road: Road, tmp_path: Path
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), np.uint8)
    path = tmp_path / "cut.avi"
    write_video(path, frames, 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused = cli("predict", road.run, path, *CPU)
    assert refused.exit_code == 1 and "--keep-damaged" in refused.output
    assert len(table_of(cli("predict", road.run, path, *CPU, "--keep-damaged"))) == 1


def test_folders_of_images_where_the_features_were_made_of_such(
    cli, road: Road, tmp_path: Path
) -> None:
    clip = road.root / "night" / "spin" / "spin_01.mp4"
    folder = tmp_path / "images" / "spin_01"
    folder.mkdir(parents=True)
    with av.open(str(clip)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / f"{number:03}.png")
    run = road.copied_run(tmp_path / "run")
    recipe = torch.load(run / "checkpoint.pt", weights_only=True)["recipe"]
    change_checkpoint(run, recipe={**recipe, "config": {**recipe["config"], "decoder": "images"}})
    found = table_of(cli("predict", run, folder.parent, *CPU))
    assert found["video"].tolist() == [str(folder)]
    expected = table_of(cli("predict", road.run, clip, *CPU))
    assert found.drop(columns="video").equals(expected.drop(columns="video"))
    result = cli("predict", run, clip, *CPU)
    assert result.exit_code == 2 and "Name folders of images." in result.output
