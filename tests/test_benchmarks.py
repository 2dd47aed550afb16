"""The accuracy benchmarks against plain loops: the planted gap, the darkened video, the collapse."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import config_for, make_problem
from test_pyramid import reference

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.experiment import adapt
from adapt.listing import DataOptions
from adapt.loading import Loaded, load
from adapt.loop import TrainingState
from adapt.model import VideoClassifier
from adapt.runs import RunFolder
from benchmarks import collapse
from benchmarks.common import Folders, choose_methods
from benchmarks.darkened import darken, read_frames, write_dark
from benchmarks.planted_gap import (
    BENCHMARK,
    SOURCE,
    TARGET,
    Gap,
    halves,
    planted_gap,
    write_problem,
)
from extract.synthetic import make_collection, write_video
from store.manifest import read_manifest
from store.read import find_stores

COUNTS = (7, 12, 9)
FRAMES, WIDTH = 25, 6
# Videos per class of the real file, in file order.
REAL_COUNTS = (114, 145, 132, 108, 155, 150, 134, 131, 160, 134, 150, 131, 109, 112)


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    count = sum(COUNTS)
    return {
        "features": random.gamma(2, 0.5, (count, FRAMES, WIDTH)).astype(np.float16),
        "label": np.repeat(np.arange(len(COUNTS)), COUNTS).astype(np.int16),
        "video": np.array([f"v_{number:03}" for number in range(count)]),
        "classes": np.array(["ant", "bee", "cat"]),
    }


def expected_split(counts) -> dict[str, list[int]]:
    split: dict[str, list[int]] = {"source": [], "train": [], "eval": []}
    begin = 0
    for count in counts:
        in_target = count // 2
        for place in range(count):
            part = "eval" if place < in_target // 3 else "train"
            split[part if place < in_target else "source"].append(begin + place)
        begin += count
    return split


def expected_target(features: np.ndarray, videos: list[int], gap: Gap) -> dict[int, np.ndarray]:
    """The recipe frame by frame and channel by channel, with the draws in the documented order."""
    random = np.random.default_rng(gap.gap_seed)
    x = features.astype(np.float64)
    if gap.family == "gain":
        g = [math.exp(z) for z in random.normal(0, gap.gain, WIDTH)]
        b = [gap.shift * abs(z) * x.mean() for z in random.normal(size=WIDTH)]
        kept = [u >= gap.drop for u in random.random(WIDTH)]
    else:
        p = random.permutation(WIDTH)
        a = [min(max(z, 0), 1) for z in random.normal(0.5 * gap.mix, 0.25, WIDTH)]
        A = random.normal(size=(WIDTH, 48)) / math.sqrt(WIDTH)
        B = random.normal(size=(48, WIDTH))
    result = {}
    for video in videos:
        start, end = int(random.integers(0, 8)), int(random.integers(17, 25))
        replaced = random.random(FRAMES) < gap.background
        mixed = random.integers(0, len(x) * FRAMES, (FRAMES, 6))
        seen = np.zeros((FRAMES, WIDTH))
        for i in range(FRAMES):
            frame = x[video, round(start + i * (end - start) / (FRAMES - 1))]
            if replaced[i]:
                frame = sum(x[n // FRAMES, n % FRAMES] for n in mixed[i]) / 6
            low_rank = (
                [sum(frame[c] * A[c, r] for c in range(WIDTH)) for r in range(48)]
                if (gap.family == "mix")
                else []
            )
            for c in range(WIDTH):
                if gap.family == "gain":
                    there = max(0.0, frame[c] * g[c] + b[c]) if kept[c] else 0.0
                else:
                    added = sum(low_rank[r] * B[r, c] for r in range(48)) / math.sqrt(48)
                    there = (1 - a[c]) * frame[c] + a[c] * frame[p[c]] + 0.5 * gap.mix * added
                    there = max(0.0, there)
                share = 1 - gap.drift * (1 - i / (FRAMES - 1))
                seen[i, c] = (1 - share) * frame[c] + share * there
        result[video] = seen
    return result


@pytest.mark.parametrize(
    "gap",
    [
        Gap(),
        Gap(gap_seed=5, background=0.0, drift=0.7),
        Gap(family="mix", mix=1.5, background=0.5, gap_seed=2),
    ],
    ids=lambda gap: gap.name,
)
def test_planted_gap_is_the_recipe_and_its_store_is_readable(data, tmp_path, gap):
    folders = Folders.below(tmp_path)
    write_problem(data, gap, folders)
    split = expected_split(COUNTS)
    target = expected_target(data["features"], split["train"] + split["eval"], gap)

    rows = {d: read_manifest(folders.manifests / BENCHMARK / f"{d}.csv") for d in (SOURCE, TARGET)}
    assert [r.id for r in rows[SOURCE]] == [data["video"][v] for v in split["source"]]
    for part in ("train", "eval"):
        ids = [r.id for r in rows[TARGET] if r.split == part]
        assert ids == [data["video"][v] for v in split[part]]
    for row in rows[SOURCE] + rows[TARGET]:
        number = int(row.id.removeprefix("v_"))
        assert (row.label, row.class_name) == (
            data["label"][number],
            data["classes"][data["label"][number]],
        )

    stores = {domain: find_stores(folders.features, domain) for domain in (SOURCE, TARGET)}
    assert list(stores[SOURCE]) == list(stores[TARGET]), "adapt takes stores of one config only"
    ((_, plain),), ((_, shifted),) = stores[SOURCE].items(), stores[TARGET].items()
    with plain, shifted:
        for v in split["source"]:
            assert np.array_equal(plain.read(data["video"][v]), data["features"][v])
        for v, seen in target.items():
            stored = shifted.read(data["video"][v])
            np.testing.assert_allclose(stored, seen, rtol=2e-3, atol=2e-3)


def test_the_real_file_gives_306_evaluation_videos():
    parts = halves(np.repeat(np.arange(len(REAL_COUNTS)), REAL_COUNTS))
    assert len(parts.target_eval) == 306
    together = np.concatenate([parts.source, parts.target_train, parts.target_eval])
    assert sorted(together) == list(range(sum(REAL_COUNTS)))


def test_planted_gap_command_trains_and_prints_what_the_runs_say(data, tmp_path):
    np.savez(tmp_path / "tiny.npz", **data)
    record = tmp_path / "results.jsonl"
    arguments = ["--npz", tmp_path / "tiny.npz", "--folder", tmp_path / "work", "--epochs", 1]
    arguments += ["--seeds", "0,1", "--method", "source-only", "--record", record]
    arguments += ["--variant", "narrow=--preset released --width 16 --discriminator-width 8"]
    outcome = CliRunner().invoke(planted_gap, [str(a) for a in arguments])
    assert outcome.exit_code == 0, outcome.output
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["method"] for line in lines] == ["source-only", "narrow"]
    for line in lines:
        folder = tmp_path / "work" / "runs" / line["method"]
        done = [json.loads((folder / f"seed{s}" / "done.json").read_text()) for s in (0, 1)]
        assert line["overall"] == [round(d["target_eval"]["overall"], 2) for d in done]
        config = json.loads((folder / "seed1" / "config.json").read_text())["config"]
        assert (config["seed"], config["epochs"]) == (1, 1)
        assert f"| {line['method']} | {np.mean(line['overall']):.1f} ±" in outcome.output


def test_a_folder_with_files_is_not_touched(data, tmp_path):
    np.savez(tmp_path / "tiny.npz", **data)
    outcome = CliRunner().invoke(
        planted_gap, ["--npz", str(tmp_path / "tiny.npz"), "--folder", str(tmp_path)]
    )
    assert outcome.exit_code == 2
    assert f"{tmp_path} is not empty. Choose another --folder." in outcome.output


def test_darken_is_the_recipe():
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)
    noise = np.random.default_rng(4).normal(0, 0.05, frames.shape)
    weights = np.array(
        [[math.exp(-(y * y + x * x) / (2 * 1.6**2)) for x in range(-3, 4)] for y in range(-3, 4)]
    )
    padded = np.pad(frames / 255.0, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    expected = np.zeros(frames.shape)
    for f, y, x, c in np.ndindex(*frames.shape):
        blurred = (padded[f, y : y + 7, x : x + 7, c] * weights).sum() / weights.sum()
        value = blurred**2.6 * (0.55, 0.75, 1.0)[c] + noise[f, y, x, c]
        expected[f, y, x, c] = 255 * min(max(value, 0), 1)
    dark = darken(frames, np.random.default_rng(4))
    assert np.abs(dark - expected).max() <= 0.501


def test_dark_videos_are_real_files_close_to_what_was_asked(tmp_path: Path):
    y, x = np.mgrid[:48, :64]
    frames = np.stack([np.stack([x * 3, y * 4, x + y + 5 * t], axis=2) for t in range(6)])
    for actor in ("daria", "lena"):
        path = tmp_path / "clips" / "walk" / f"{actor}_walk.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames.astype(np.uint8), 25)
    count, error = write_dark(tmp_path / "clips", tmp_path / "out")
    assert count == 2
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert found == ["bright/walk/daria_walk.avi", "dark/walk/lena_walk.mp4"]
    filmed = read_frames(tmp_path / "clips" / "walk" / "lena_walk.avi")
    stored = read_frames(tmp_path / "out" / "dark" / "walk" / "lena_walk.mp4")
    assert stored.shape == filmed.shape
    asked = darken(filmed, np.random.default_rng(1))  # lena's is the second of the sorted files
    difference = (stored.astype(float) - asked) @ [0.299, 0.587, 0.114]
    assert math.sqrt((difference**2).mean()) == pytest.approx(error)
    assert error < 3, "the encoder must keep the brightness within the noise (12.75 grey levels)"


def test_methods_of_a_benchmark_are_chosen_by_name_or_given() -> None:
    known = {"paper": "--preset paper", "dann": "--method dann"}
    assert choose_methods(known, [], []) == known
    assert choose_methods(known, ["dann"], ["more=--levels 3 --bound=none"]) == {
        "dann": "--method dann",
        "more": "--levels 3 --bound=none",
    }
    with pytest.raises(click.UsageError, match=r"called 'dan'\. There are: paper; dann"):
        choose_methods(known, ["dan"], [])
    with pytest.raises(click.UsageError, match="NAME=OPTIONS"):
        choose_methods(known, [], ["more"])
    with pytest.raises(click.UsageError, match="'dann' is a method of this benchmark"):
        choose_methods(known, [], ["dann=--method dann --epochs 3"])


def toy(root: Path, **given) -> tuple[AdaptConfig, Loaded]:
    make_problem(root)
    small = {"levels": 3, "width": 6, "discriminator_width": 8, "batch_size": 8, "epochs": 2}
    domains = {"source": "left", "target": "right", "compute": "float32"}
    config = config_for({**domains, **small}, preset="paper", **given)
    places = DataOptions(features=root / "features", manifests=root / "manifests")
    return config, load(config, places, torch.device("cpu"))


def encoded(model: VideoClassifier, features_BTD: torch.Tensor) -> torch.Tensor:
    """f^1 with the batch's own statistics and without dropout."""
    x = features_BTD.flatten(0, 1)
    for linear, norm in ((0, 1), (4, 5)):
        x = x @ model.encoder[linear].weight.T + model.encoder[linear].bias
        x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
        x = (x * model.encoder[norm].weight + model.encoder[norm].bias).clamp(min=0)
    return x.unflatten(0, features_BTD.shape[:2])


@pytest.mark.parametrize("form", ["letter", "letter, layer norm", "paper"])
def test_what_is_measured_of_the_collapse_equals_the_loops(tmp_path, form):
    config, loaded = toy(tmp_path, **collapse.FORMS[form])
    state = TrainingState(config, loaded.data)
    state.model.double()
    state.branch.double()
    for (
        p
    ) in state.branch.parameters():  # away from the start, where losses hardly differ from log 2
        p.data += 0.3 * torch.randn_like(p)
    probe = collapse.Probe.of(loaded.data, config)
    assert len(probe.source.features_BTD) == len(probe.target.features_BTD) == 8
    probe = collapse.Probe(
        source=SourceBatch(probe.source.features_BTD.double(), probe.source.labels_B),
        target=TargetBatch(probe.target.features_BTD.double()),
    )
    before = copy.deepcopy(state.state_dict())
    measured = collapse.measure(state, config, probe, coefficient=0.3)

    f_source, f_target = (
        encoded(state.model, batch.features_BTD) for batch in (probe.source, probe.target)
    )
    domains_B = torch.tensor([0.0] * 8 + [1.0] * 8)
    loops = reference(config, state.branch, torch.cat([f_source, f_target]), domains_B)
    expected = {}
    for m in (1, 2, 3):
        squares = [v**2 for b in range(8, 16) for f in loops.features[b][m - 1] for v in f.tolist()]
        losses = [slot.item() for video in loops.slot_losses for slot in video[m]]
        expected[f"rms_{m}"] = math.sqrt(sum(squares) / len(squares))
        expected[f"loss_{m}"] = sum(losses) / len(losses)
    p_source, p_target = (
        state.model.classifier(f.mean(dim=1)).softmax(dim=1) for f in (f_source, f_target)
    )
    entropy_B = -(p_target * p_target.log()).sum(dim=1)
    if config.entropy_reduction == "mean":
        entropy_B = entropy_B / p_target.shape[1]
    right_B = p_source[range(8), probe.source.labels_B]
    task = entropy_B.mean() - right_B.log().mean()
    norms = []
    for loss in (loops.adversarial, task):
        gradients = torch.autograd.grad(loss, (f_source, f_target), retain_graph=True)
        norms.append(math.sqrt(sum(v * v for g in gradients for v in g.flatten().tolist())))
    expected["gradient_ratio"] = 0.3 * norms[0] / norms[1]
    assert measured == pytest.approx(expected, rel=1e-9)
    for name, value in before["networks"].items():
        assert torch.equal(value, state.networks.state_dict()[name]), "measuring changes nothing"


def test_the_traced_run_is_the_run_of_adapt(tmp_path):
    config, loaded = toy(tmp_path, bound="none")
    rows = collapse.trace(config, loaded)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    names = {f"{what}_{m}" for what in ("rms", "loss") for m in (1, 2, 3)}
    for row in rows:
        assert set(row) == {"epoch", "gradient_ratio", "target_eval"} | names
        assert all(math.isfinite(value) for value in row.values())
    assert rows[0]["gradient_ratio"] == 0, "the reversal's ramp starts at 0"
    run = adapt(config, loaded, RunFolder(tmp_path / "run"))
    assert rows[-1]["target_eval"] == run.overall


def test_collapse_command_writes_a_line_per_epoch_of_every_run(data, tmp_path, monkeypatch):
    np.savez(tmp_path / "tiny.npz", **data)
    forms = {name: {**options, "width": 8, "frames": 9} for name, options in collapse.FORMS.items()}
    monkeypatch.setattr(collapse, "FORMS", forms)
    monkeypatch.setattr(collapse, "SIZES", {"levels": 3, "discriminator_width": 8})
    table = tmp_path / "table.csv"
    arguments = ["measure", table, "--npz", tmp_path / "tiny.npz", "--seeds", "0,1", "--epochs", 1]
    outcome = CliRunner().invoke(collapse.collapse, [str(a) for a in arguments])
    assert outcome.exit_code == 0, outcome.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(r["gap"], r["seed"], r["form"], r["epoch"]) for r in rows] == [
        (gap, seed, form, epoch)
        for gap in collapse.GAPS
        for seed in "01"
        for form in forms
        for epoch in "01"
    ]
    for row in rows:
        assert (row["rms_3"] == "") == (row["form"] == "source only")


def test_collapse_is_drawn_with_the_name_of_every_form(tmp_path):
    rows = [
        {"gap": gap, "form": form, "seed": seed, "epoch": epoch, "target_eval": 10.0 * epoch + seed}
        | ({} if form == "source only" else {"rms_4": 2.0**epoch, "loss_4": 0.5 * 3.0**epoch})
        for gap in collapse.GAPS
        for form in collapse.FORMS
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    for name in ("once.svg", "again.svg"):
        arguments = ["draw", str(tmp_path / "table.csv"), str(tmp_path / name)]
        outcome = CliRunner().invoke(collapse.collapse, arguments)
        assert outcome.exit_code == 0, outcome.output
    drawing = (tmp_path / "once.svg").read_text()
    assert all(f">{form}</text>" in drawing for form in collapse.FORMS)
    assert drawing == (tmp_path / "again.svg").read_text()


@pytest.mark.slow
def test_the_benchmark_of_extraction_measures_every_way_in_every_round(tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    from benchmarks import extract, rates

    monkeypatch.setattr(rates, "_SECONDS", 0.1)
    make_collection(tmp_path, "day", per_action=1)
    arguments = ["--videos", tmp_path, "--backbone", "mobilenet_v3_small", "--rounds", 2]
    arguments += ["--count", 2, "--no-memory", "--precision", "float32"]
    outcome = CliRunner().invoke(extract.main, [str(a) for a in arguments])
    assert outcome.exit_code == 0, outcome.output
    rows = {
        line.split(" | ")[0].strip("| "): [
            float(x) for x in line.split(" | ")[2].strip(" |").split(",")
        ]
        for line in outcome.output.splitlines()
        if line.startswith("| ")
    }
    assert all(len(values) == 2 and min(values) > 0 for values in rows.values())
    bare = [values for name, values in rows.items() if name.startswith("bare, ")]
    [usual] = [values for name, values in rows.items() if name.startswith("video_features' way")]
    ours = rows["extract, end to end"]
    for turn in (0, 1):
        best = max(values[turn] for values in bare)
        assert rows["extract / the best bare rate"][turn] == pytest.approx(
            ours[turn] / best, abs=0.02
        )
        ratio = rows["extract / video_features' way"][turn]
        assert ratio == pytest.approx(ours[turn] / usual[turn], rel=0.1, abs=0.02)


def test_the_usual_way_computes_the_features_of_extract(tmp_path):
    """Else the two would not be compared at the same work: the same frames, the same model."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    from benchmarks import rates
    from extract.backbone import Backbone
    from extract.config import ExtractConfig
    from extract.decode import Video

    make_collection(tmp_path, "day", per_action=1)
    path = next(tmp_path.rglob("*.mp4"))
    options = ExtractConfig(
        backbone="resnet18", weights="random:0", device="cpu", precision="float32"
    )
    seen = []
    model = rates._plain_model(options)
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.numpy()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "_plain_model", lambda options: model)
        rate, _ = rates.video_features(tmp_path, [path.stem], options, batch=5)
    assert rate > 0 and cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert [len(part) for part in seen] == [5, 5, 2]
    backbone = Backbone(options)
    expected = backbone(np.stack(list(Video(path, backbone.frames).frames())))
    np.testing.assert_allclose(np.concatenate(seen), expected, rtol=0.02, atol=0.05)
