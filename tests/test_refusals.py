"""What training refuses, in a sentence each: options, sizes, seeds, damaged files, full disks."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, edited_json, make_store, stopped_before, toy_arguments

from adapt import methods
from adapt.bank import FeatureBank
from adapt.config import SHARED_FIELDS
from adapt.model import VideoClassifier
from adapt.prediction import take_statistics
from store.errors import ConfigError, RunError
from store.manifest import Video, read_manifest, write_manifest
from store.read import FeatureStore

UNREAD = [
    (method, name)
    for method in methods.names()
    for name in sorted({*SHARED_FIELDS, *(o for m in methods.names() for o in methods.find(m).own)})
    if name not in methods.find(method).reads
]


@pytest.mark.parametrize(("method", "name"), UNREAD, ids=str)
def test_an_option_that_a_method_does_not_read_is_refused(method: str, name: str) -> None:
    readers = [m for m in methods.names() if name in methods.find(m).reads]
    with pytest.raises(ConfigError) as caught:
        config_for({}, source="a", target="b", method=method, **{name: 1})
    flag = "--" + name.replace("_", "-")
    does = "do" if len(readers) > 1 else "does"
    assert str(caught.value) == (
        f"--method {method} does not read {flag}; {', '.join(readers)} {does}. Leave it out or choose "
        "another method."
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"momentum": 0.9},
            "--momentum is read only with --optimiser sgd, and --optimiser is adam. Leave it out, or "
            "give --optimiser sgd.",
        ),
        (
            {"method": "ta3n", "statistics": "target"},
            "--statistics target replaces the statistics of batch norms, and --encoder one-layer has "
            "none. Add --input-norm, or leave --statistics out.",
        ),
        ({"nothing": 1}, "There is no option --nothing."),
        ({"batch_size": "8"}, "--batch-size must be of type int, got '8'."),
        ({"kernel": "3"}, "--kernel must be of type int, got '3'."),
        ({"levels": [4]}, "--levels must be of type int, got [4]."),
        ({"source": ["a"]}, "--source must be of type str, got ['a']."),
        ({"learning_rate": 10**400}, f"--learning-rate must be a finite number, got {10**400}."),
        ({"batch_size": 10**400}, f"--batch-size must be 2147483647 or less, got {10**400}."),
        (
            {"preset": ["robust"]},
            "--preset must be one of robust, light, paper, released with --method ma2l-td, got "
            "['robust'].",
        ),
        ({"batch_size": 10**20}, "--batch-size must be 2147483647 or less, got 1" + 20 * "0" + "."),
        ({"eval_draws": 10**20}, "--eval-draws must be 1000 or less, got 1" + 20 * "0" + "."),
        ({"draws": 10**5}, "--draws must be 1000 or less, got 100000."),
        ({"width": 10**8}, "--width must be 65536 or less, got 100000000."),
        ({"levels": 1000}, "--levels must be from 2 to 30, got 1000."),
        ({"levels": 10**9}, "--levels must be from 2 to 30, got 1000000000."),
        (
            {"kernel": 50, "levels": 5},
            "--kernel 50 with --levels 5 needs 6,007,499 frames of every video; the most is 10,000. "
            "Lower either.",
        ),
    ],
    ids=str,
)
def test_values_that_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_for({}, **{"source": "a", "target": "b", **given})
    assert str(caught.value) == text


def test_a_domain_in_a_config_file_that_is_no_text_is_refused(cli, problem: Path) -> None:
    for name, value in (("source", 3), ("target", ["right"])):
        domains = {"source": "left", "target": "right", name: value}
        (problem / "config.json").write_text(json.dumps(domains))
        result = cli("adapt", "--config", problem / "config.json")
        assert result.exit_code == 2, result.output
        assert f"--{name} must be of type str, got {value}." in result.output


def test_sizes_that_no_memory_holds_are_refused_before_anything_is_made(cli, problem: Path) -> None:
    for more in (("--batch-size", 2**31 - 1), ("--draws", 1000, "--batch-size", 10**7)):
        result = cli(*toy_arguments(problem, "run", *more))
        assert result.exit_code == 2
        assert re.search(
            r"These options need at least [\d,.]+ GB: [\d,]+ parameters", result.output
        )
        assert not (problem / "run").exists()


@pytest.mark.parametrize("missing", ["--source", "--target"])
@pytest.mark.parametrize("command", ["adapt", "ablate"])
def test_a_missing_option_is_named(cli, command: str, missing: str) -> None:
    [given] = {"--source", "--target"} - {missing}
    result = cli(command, given, "ucf")
    assert result.exit_code == 2 and f"Missing option '{missing}'" in result.output


@pytest.mark.parametrize("option", ["--features", "--store", "--manifests", "--run"])
def test_an_empty_text_is_refused(cli, problem: Path, option: str) -> None:
    result = cli(*toy_arguments(problem, "run", option, ""))
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.output


def test_seeds_are_numbers_whatever_their_spelling(cli, problem: Path) -> None:
    for run, text, seeds in (("a", "0,00", [0]), ("b", "1-2,02", [1, 2])):
        result = cli(*toy_arguments(problem, run, "--epochs", 1, "--seeds", text))
        assert result.exit_code == 0, result.output
        assert json.loads((problem / run / "seeds.json").read_text())["seeds"] == seeds
    again = cli("evaluate", problem / "b", "--device", "cpu")
    assert again.exit_code == 0 and again.output.count("the same as the run recorded") == 2
    for text in ("", "3-1", "-1", "0-", "0-1000000000", "0,,1"):
        refused = cli(*toy_arguments(problem, "c", "--seeds", text))
        assert refused.exit_code == 2 and "--seeds" in refused.output
    assert not (problem / "c").exists()


def test_a_mistyped_run_is_not_trained_anew(cli, problem: Path) -> None:
    result = cli(*toy_arguments(problem, "tpyo", "--resume"))
    assert result.exit_code == 2
    assert f"There is no folder {problem / 'tpyo'} to resume. Check --run" in result.output
    assert not (problem / "tpyo").exists()


def test_a_config_comes_back_from_show_config_and_from_a_run(cli, problem: Path) -> None:
    more = ("--method", "dann", "--epochs", 1, "--video-reversal", 0.25)
    shown = cli(*toy_arguments(problem, "a", *more, "--show-config"))
    assert shown.exit_code == 0 and not (problem / "a").exists()
    (problem / "config.json").write_text(shown.output)
    folders = [f"--{n}={problem / n}" for n in ("features", "manifests")]
    assert cli(*toy_arguments(problem, "a", *more)).exit_code == 0
    for run, file, extra in (
        ("b", problem / "config.json", ()),
        ("c", problem / "a" / "config.json", ("--epochs", 2)),
    ):
        result = cli(
            *("adapt", "--config", file, "--run", problem / run, "--device", "cpu"),
            *(*folders, *extra),
        )
        assert result.exit_code == 0, result.output
    a, b, c = (json.loads((problem / n / "config.json").read_text())["config"] for n in "abc")
    assert a == b == {**c, "epochs": 1} and c["epochs"] == 2 and a["video_reversal"] == 0.25
    assert a == json.loads(shown.output)
    for text in ("[]", "null", "{", '{"config": []}', "{}"):
        (problem / "bad.json").write_text(text)
        result = cli("adapt", "--config", problem / "bad.json", *folders)
        assert result.exit_code == 2 and f"--config {problem / 'bad.json'}" in result.output
    result = cli("adapt", "--config", problem / "a" / "config.json", "--kernel", 2, *folders)
    assert result.exit_code == 2 and "--method dann does not read --kernel" in result.output


def test_a_preset_beside_a_config_of_another_is_refused(cli, problem: Path) -> None:
    """The file has every value, so that the run would be called by a preset of which it has none."""
    arguments = toy_arguments(problem, "a", "--method", "infomax", "--preset", "shared")
    shown = cli(*arguments, "--show-config")
    path = problem / "config.json"
    path.write_text(shown.output)
    folder = ("--manifests", problem / "manifests", "--show-config")
    refused = cli("adapt", "--config", path, "--preset", "paper", *folder)
    assert refused.exit_code == 2
    assert "has the values of the preset shared, so --preset paper would change its name alone" in (
        refused.output
    )
    same = cli("adapt", "--config", path, "--preset", "shared", *folder)
    few = {"source": "left", "target": "right", "method": "infomax", "epochs": 3}
    path.write_text(json.dumps(few))
    chosen = cli("adapt", "--config", path, "--preset", "paper", *folder)
    assert (same.exit_code, chosen.exit_code) == (0, 0), same.output + chosen.output
    assert json.loads(chosen.output)["preset"] == "paper"


def stopped_run(cli, problem: Path) -> list[object]:
    """A run that was stopped after its second epoch; returns the command that resumes it."""
    arguments = toy_arguments(problem, "run", "--checkpoint-every", 1)
    with stopped_before(3):
        assert cli(*arguments).exit_code == 130
    return [*arguments, "--resume"]


def test_every_damage_of_a_kept_state_is_refused(cli, problem: Path) -> None:
    resume = stopped_run(cli, problem)
    path = problem / "run" / "progress.pt"
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 12)
    flipped = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in places]
    other = problem / "other.pt"
    torch.save({"epoch": 1}, other)
    for data in (*flipped, b"", whole[: len(whole) // 2], other.read_bytes()):
        path.write_bytes(data)
        result = cli(*resume)
        assert result.exit_code == 1 and "progress.pt is damaged or not from this" in result.output
    path.write_bytes(whole)
    (problem / "run" / "progress.sha256").unlink()
    assert cli(*resume).exit_code == 1
    (problem / "run" / "progress.pt").unlink()  # as the message says
    assert cli(*resume).exit_code == 0


def test_a_kill_between_the_two_files_of_a_kept_state_loses_nothing(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt import checkpoint

    calm = toy_arguments(problem, "calm", "--checkpoint-every", 1)
    assert cli(*calm).exit_code == 0
    replacing, count = checkpoint.replacing, []

    def killed(path: Path) -> Any:
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt  # the digests of both states stand, the old state too
        return replacing(path)

    arguments = toy_arguments(problem, "run", "--checkpoint-every", 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "replacing", killed)
        assert cli(*arguments).exit_code == 130
    resumed = cli(*arguments, "--resume")
    assert resumed.exit_code == 0 and "Going on after epoch 1 of 3." in resumed.output
    tables = [(problem / n / "predictions.csv").read_text() for n in ("calm", "run")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("text", ["{}", "[]", "null", "3", '{"target_eval": []}', "{", ""])
def test_a_damaged_done_mark_is_said(cli, problem: Path, text: str) -> None:
    assert cli(*toy_arguments(problem, "run", "--epochs", 1)).exit_code == 0
    (problem / "run" / "done.json").write_text(text)
    for arguments in (
        toy_arguments(problem, "run", "--epochs", 1, "--resume"),
        ["evaluate", problem / "run", "--device", "cpu"],
    ):
        result = cli(*arguments)
        assert result.exit_code == 1 and re.search(r"done\.json is damaged", result.output)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"config": 3, "data": {}}', "{"])
def test_a_damaged_config_is_said(cli, problem: Path, text: str) -> None:
    assert cli(*toy_arguments(problem, "run", "--epochs", 1)).exit_code == 0
    (problem / "run" / "config.json").write_text(text)
    result = cli("evaluate", problem / "run", "--device", "cpu")
    assert result.exit_code == 1
    assert re.search(r"config\.json (is damaged|does not fit this version)", result.output)


def test_a_run_does_not_go_on_with_other_features(cli, problem: Path) -> None:
    """One video was extracted again from another file; moved shards with the same bytes change nothing."""
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", "--checkpoint-every", 1)).exit_code == 130
    [folder] = (problem / "features" / "right").iterdir()
    with FeatureStore(folder) as store:
        features = {video: store.read(video) for video in store.records}
    shutil.rmtree(folder)
    make_store(problem / "features", "right", dict(reversed(features.items())))
    with stopped_before(3):
        again = cli(*toy_arguments(problem, "run", "--checkpoint-every", 1, "--resume"))
        assert again.exit_code == 130, again.output
    shutil.rmtree(folder)
    features["right_1_7"] = features["right_1_7"][::-1]
    make_store(problem / "features", "right", features)
    refused = cli(*toy_arguments(problem, "run", "--checkpoint-every", 1, "--resume"))
    assert refused.exit_code == 1
    assert "holds a run on the same videos with other features" in refused.output
    path = problem / "run" / "config.json"  # of a version that did not record it
    with edited_json(path) as record:
        del record["data"]["features_sha256"]
    assert cli(*toy_arguments(problem, "run", "--checkpoint-every", 1, "--resume")).exit_code == 0


def test_a_config_that_was_changed_after_the_run_is_refused(cli, problem: Path) -> None:
    """Other options than those of the training would give other predictions without a word."""
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    path = problem / "run" / "config.json"
    with edited_json(path) as record:
        record["config"]["eval_draws"] = 5
    for command in (("predict",), ("evaluate",)):
        refused = cli(*command, problem / "run", "--device", "cpu")
        assert refused.exit_code == 1
        assert "is not as the run wrote it: eval_draws: 0 or 5 (trained, and now)" in refused.output


def test_a_changed_checkpoint_is_refused(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run", "--epochs", 1)).exit_code == 0
    path = problem / "run" / "checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model"]["classifier.bias"] += 1
    torch.save(checkpoint, path)
    result = cli("evaluate", problem / "run", "--device", "cpu")
    assert result.exit_code == 1 and "checkpoint.pt is damaged or not from this" in result.output


@pytest.mark.parametrize("name", ["progress.pt", "checkpoint.pt", "metrics.jsonl", "done.json"])
def test_a_full_disk_is_said_and_resumed(
    cli, problem: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = toy_arguments(problem, "run", "--checkpoint-every", 1)
    with monkeypatch.context() as patched:
        refuse_writing(name, patched)
        result = cli(*arguments)
    assert result.exit_code == 1
    path = problem / "run" / name
    assert f"Cannot write {path}: No space left on device. Make room, then run" in result.output
    assert cli(*arguments, "--resume").exit_code == 0


def test_a_full_disk_is_said_of_what_stands_beside_the_seeds(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = toy_arguments(problem, "run", "--epochs", 1, "--seeds", "0")
    with monkeypatch.context() as patched:
        refuse_writing("seeds.json", patched)
        result = cli(*arguments)
    path = problem / "run" / "seeds.json"
    assert result.exit_code == 1
    assert f"Cannot write {path}: No space left on device. Make room, then run" in result.output
    assert cli(*arguments, "--resume").exit_code == 0 and path.is_file()


def refuse_writing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write fail whose file bears the name, or a temporary name of it."""
    whole = Path.open

    def open_(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if name in self.name and set(mode) & set("wax+"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return whole(self, mode, *rest, **more)

    def write_bytes(self: Path, data: bytes) -> int:
        with open_(self, "wb") as file:
            return int(file.write(data))

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_videos_shorter_than_the_frames_sampled_are_counted(cli, problem: Path) -> None:
    result = cli(*toy_arguments(problem, "run", "--levels", 4, "--epochs", 1))  # 23 frames
    assert result.exit_code == 0
    said = "24 of 24 left train videos have fewer features than the 23 frames sampled"
    assert result.output.count(said) == 1
    few = cli(*toy_arguments(problem, "few", "--epochs", 1))  # 9 of at least 12
    assert "fewer features" not in few.output


def test_the_command_that_is_proposed_makes_features_that_fit(cli, problem: Path) -> None:
    """It names what the other store was made with, quoted for a shell."""
    config = {
        **{"backbone": "mobilenet_v2", "weights_sha256": "0" * 64, "preset": "torchvision"},
        **{"stride": 4, "frames_per_video": 0, "compute_dtype": "float32", "decoder": "images"},
    }
    root = problem / "with space"
    for domain in ("left", "right"):
        listed = read_manifest(problem / "manifests" / "toy" / f"{domain}.csv")
        videos = {v.id: np.ones((3, 16)) for v in listed}
        if domain == "left":
            make_store(root / "features", domain, videos, config)
    result = cli(*toy_arguments(problem, "run", "--features", root / "features"))
    assert result.exit_code == 1
    assert (
        f"extract --dataset right --manifests {problem / 'manifests'} --features "
        f"'{root / 'features'}' --videos DIR --backbone mobilenet_v2 --weights DIR/none --preset "
        "torchvision --stride 4 --input frames --precision float32"
    ) in result.output


def test_why_features_are_missing_is_said_where_it_is_known(cli, problem: Path) -> None:
    from store.records import VideoRecord, records_text

    [folder] = (problem / "features" / "right").iterdir()
    failed = VideoRecord(video="lost", status="failed", error="a/lost.avi: 10 of 20 frames")
    (folder / "failures.csv").write_text(records_text([failed]))
    path = problem / "manifests" / "toy" / "right.csv"
    lost = Video(id="lost", label=0, class_name="c0", split="train", frames=None)
    write_manifest(path, [*read_manifest(path), lost])
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    said = "failures.csv says of 1 of them why, e.g. a/lost.avi: 10 of 20 frames."
    assert said in result.output


def test_a_step_with_one_frame_of_a_domain_is_refused_by_batch_norm(cli, tmp_path: Path) -> None:
    """By the batch's share of a small target; source only, which leaves the target out, trains."""
    from test_robust import make_domains, split

    small = split(1, 1, 1) + split(1, 1, 1, of="eval")
    make_domains(tmp_path, {"left": split(9, 9, 9), "right": small})
    more = ("--target-batch", "proportional", "--frames", 1)
    result = cli(*toy_arguments(tmp_path, "a", "--method", "infomax", *more))
    assert result.exit_code == 2, result.output
    assert "a single frame of one domain, which gives batch norm a single value. Raise" in (
        " ".join(result.output.split())
    )
    assert cli(*toy_arguments(tmp_path, "b", "--method", "source-only", *more)).exit_code == 0


def test_a_schedule_whose_only_rate_is_0_is_said(cli, problem: Path) -> None:
    arguments = ("--method", "infomax", "--score-every", 0, "--rate-decay", "cosine", "--epochs")
    said = "so a single epoch trains nothing. Give --epochs 2 or more, or another --rate-decay."
    for epochs in (1, 2):
        result = cli(*toy_arguments(problem, f"run{epochs}", *arguments, epochs))
        assert result.exit_code == 0, result.output
        assert (said in " ".join(result.output.split())) == (epochs == 1)


def test_statistics_of_one_value_are_refused_and_those_of_videos_are_counted_as_videos() -> None:
    config = config_for({}, method="source-only", preset="paper", source="a", target="b")
    model = VideoClassifier(config, 10, 3)
    one = FeatureBank([np.ones((1, 10), np.float16)], torch.device("cpu"))
    with pytest.raises(RunError, match="there is one video of one frame"):
        take_statistics(model, one, 1)
    # A batch norm that sees one row per video: its count is V, not V times T.
    over_videos = torch.nn.Sequential(torch.nn.BatchNorm1d(10))
    over_videos.forward = lambda x: over_videos[0](x.mean(1))  # type: ignore[method-assign]
    draws = np.random.default_rng(0)
    features = [draws.normal(size=(4, 10)).astype(np.float16) for _ in range(5)]
    take_statistics(over_videos, FeatureBank(features, torch.device("cpu")), 4)
    rows = np.stack([f.astype(np.float64).mean(0) for f in features])
    np.testing.assert_allclose(over_videos[0].running_mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(over_videos[0].running_var, rows.var(0, ddof=1), rtol=1e-4)
