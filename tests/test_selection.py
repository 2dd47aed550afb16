"""The epoch that each rule takes, the scores behind it, and the models that are kept for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_problem, metrics, slow, stopped_before, toy_arguments
from test_robust import outcome

from adapt import checkpoint, selection
from adapt.rules import CHOICES, RULES, best_epochs, by_rule
from adapt.run_files import read_done
from adapt.runs import RunFolder
from store.datasets import manifest_path
from store.manifest import read_manifest, write_manifest
from store.read import find_stores

EVERY = ("--method", "infomax", "--score-every", 1, "--epochs", 6, "--learning-rate", "0.02")


def line(epoch: int, **scores: float) -> dict[str, Any]:
    return {"epoch": epoch, "scores": {name.replace("_", "-"): s for name, s in scores.items()}}


def test_the_epoch_that_each_rule_takes() -> None:
    lines = [
        line(1, im=0.5, entropy=0.9, dev=0.2, oracle=50.0, oracle_class_mean=40.0),
        {"epoch": 2},
        line(3, im=0.7, entropy=0.4, dev=-0.1, oracle=70.0, oracle_class_mean=60.0),
        line(4, im=0.7, entropy=0.8, oracle=60.0, oracle_class_mean=65.0),
    ]
    expected = {"im": 3, "entropy": 3, "dev": 3, "oracle": 3, "last": 4}
    assert best_epochs(lines) == expected
    assert by_rule(lines)["last"] == {"epoch": 4, "overall": 60.0, "class_mean": 65.0}
    assert by_rule(lines)["dev"] == {"epoch": 3, "score": -0.1, "overall": 70.0, "class_mean": 60.0}
    lowest = {name for name, rule in RULES.items() if rule.lowest}
    assert lowest == {"entropy", "dev"}
    assert [name for name, rule in RULES.items() if rule.reads_target_labels] == ["oracle"]


def run(cli, problem: Path, name: str, *more: object) -> tuple[RunFolder, str]:
    result = cli(*toy_arguments(problem, name, *EVERY, *more))
    assert result.exit_code == 0, result.output
    return RunFolder(problem / name), result.output


def test_training_does_not_notice_that_it_is_scored(cli, problem: Path) -> None:
    scored, _ = run(cli, problem, "scored")
    never, output = run(cli, problem, "never", "--score-every", 0)
    lines = metrics(scored.path)
    assert all("score im" in line for line in lines)
    bare = [{k: v for k, v in m.items() if not k.startswith("score ")} for m in lines]
    assert bare == metrics(never.path)
    predictions = [(run.path / "predictions.csv").read_bytes() for run in (scored, never)]
    assert predictions[0] == predictions[1]
    states = [checkpoint.load_model(r, r.read()[0]).model.state_dict() for r in (scored, never)]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert "(--select)" not in output and not (never.path / "candidates").exists()


def test_each_rule_keeps_the_model_of_its_epoch(cli, tmp_path: Path) -> None:
    """The kept model is that of a run that ended there: the same rate, no decay, the same seeds."""
    make_problem(tmp_path, shift=2.5, classes=4)
    constant = ("--rate-decay", "none", "--checkpoint-every", 0)
    whole, output = run(cli, tmp_path, "whole", *constant)
    chosen = best_epochs(whole.metrics())
    assert set(chosen) == set(CHOICES) and len(set(chosen.values())) > 1, chosen
    assert set(checkpoint.candidates(whole)) == set(chosen.values())
    for name, epoch in chosen.items():
        found = read_done(whole.path).rules[name]
        shown = f"{name:<11} {found['overall']:6.2f} %  epoch {epoch}"
        assert shown in output
    other = next(name for name, epoch in chosen.items() if epoch != 6)
    selected, output = run(cli, tmp_path, "selected", *constant, "--select", other)
    until = ("--epochs", chosen[other])
    short, _ = run(cli, tmp_path, "short", *constant, *until)
    kept = (selected.path / "predictions.csv").read_text()
    assert kept == (short.path / "predictions.csv").read_text()
    states = [checkpoint.load_model(r, r.read()[0]).model.state_dict() for r in (selected, short)]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    done = json.loads((selected.path / "done.json").read_text())
    assert done["epoch"] == chosen[other]
    told = "reads the target's labels" if other == "oracle" else "no target label"
    assert done["selection"] == f"epoch by {other} ({told})" and done["selection"] in output
    again = cli("evaluate", selected.path, "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output


@pytest.mark.parametrize("every", [slow(1), 2, 3])
def test_a_run_that_goes_on_chooses_as_one_that_never_stopped(
    cli, tmp_path: Path, every: int
) -> None:
    make_problem(tmp_path, shift=2.5)
    more = ("--select", "im", "--checkpoint-every", every)
    calm, _ = run(cli, tmp_path, "calm", *more)
    with stopped_before(5):
        assert cli(*toy_arguments(tmp_path, "run", *EVERY, *more)).exit_code == 130
    gone_on, _ = run(cli, tmp_path, "run", *more, "--resume")
    assert outcome(gone_on.path) == outcome(calm.path)
    assert read_done(gone_on.path).rules == read_done(calm.path).rules
    assert checkpoint.candidates(gone_on).keys() == checkpoint.candidates(calm).keys()


def test_scores_by_hand(cli, problem: Path) -> None:
    """Source accuracy with the source's statistics and entropy with the target's, from stored features."""
    finished, _ = run(cli, problem, "run", "--epochs", 2)
    config, _ = finished.read()
    assert config.statistics == "target" and config.input_norm
    scores = finished.metrics()[-1]["scores"]
    model = checkpoint.load_model(finished, config).model.double().requires_grad_(False)
    for domain, split, name in (("right", "train", "entropy"), ("right", "eval", "oracle")):
        x, labels = features_of(problem, domain, split, config.frames)
        P = model(x).softmax(1)
        expected = {
            "entropy": -(P * P.log()).sum(1).mean().item(),
            "oracle": 100 * (P.argmax(1) == labels).double().mean().item(),
        }[name]
        assert scores[name] == pytest.approx(expected, rel=1e-3)
    # Set every batch norm's statistics to those of what it sees of the source's training videos.
    trained, _ = features_of(problem, "left", "train", config.frames)
    rows = trained.flatten(0, 1)
    for layer in model.encoder:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean, layer.running_var = rows.mean(0), rows.var(0)
        rows = layer(rows)
    x, labels = features_of(problem, "left", "eval", config.frames)
    right = (model(x).argmax(1) == labels).double().mean().item()
    assert scores["source-val"] == pytest.approx(100 * right)


@pytest.mark.parametrize("rule", ["source-val", "dev", "im"])
def test_the_source_videos_that_choose_the_epoch_are_the_runs(
    cli, problem: Path, rule: str
) -> None:
    """With other ones the same command is another run; of a rule that does not look at them it is not."""
    done, _ = run(cli, problem, "run", "--select", rule, "--epochs", 2)
    path = manifest_path("toy", "left", problem / "manifests")
    rows = read_manifest(path)
    dropped = next(row.id for row in rows if row.split == "eval")
    write_manifest(path, [row for row in rows if row.id != dropped])
    before = {file.name: file.read_bytes() for file in done.path.iterdir() if file.is_file()}
    again = cli(*toy_arguments(problem, "run", *EVERY, "--select", rule, "--epochs", 2), "--resume")
    if rule == "im":
        assert again.exit_code == 0, again.output
    else:
        assert again.exit_code == 1 and "a run on other videos or labels:" in again.output
        assert before == {n: (done.path / n).read_bytes() for n in before}
    other, _ = run(cli, problem, "other", "--select", rule, "--epochs", 2)
    records = [json.loads((r.path / "config.json").read_text())["data"] for r in (done, other)]
    for name in ("videos", "features_sha256"):
        assert (records[0][name] == records[1][name]) == (rule == "im")


def features_of(
    root: Path, domain: str, split: str, frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    listed = read_manifest(manifest_path("toy", domain, root / "manifests"))
    [store] = find_stores(root / "features", domain, None).values()
    with store:
        read = {v.id: store.read(v.id) for v in listed if v.split == split}
    picked = [
        x[[math.floor((i + 0.5) * len(x) / frames) for i in range(frames)]] for x in read.values()
    ]
    labels = [v.label for v in listed if v.split == split]
    return torch.from_numpy(np.stack(picked)).double(), torch.tensor(labels)


def test_what_a_rule_needs_is_refused_before_anything_is_trained(cli, problem: Path) -> None:
    path = manifest_path("toy", "left", problem / "manifests")
    path.write_text(path.read_text().replace(",eval", ",train"))
    refused = cli(*toy_arguments(problem, "run", *EVERY, "--select", "dev"))
    assert refused.exit_code == 2
    assert "--select dev needs held-out source videos, and the left manifest" in refused.output
    assert not (problem / "run").exists()
    run(cli, problem, "run", "--select", "snd")
    assert "source-val" not in read_done(problem / "run").rules
    never = cli(*toy_arguments(problem, "no", "--select", "im", "--score-every", 0))
    assert never.exit_code == 2 and "--score-every 0 computes none" in never.output


@pytest.mark.parametrize(
    ("method", "rule", "reason"),
    [
        ("coral", "source-val", "and the model of --method coral predicts the target's alone."),
        ("adabn", "source-val", "and the model of --method adabn predicts the target's alone."),
        ("abg", "dev", "and the model of --method abg predicts the target's alone."),
        (
            "sa",
            "ami",
            "needs what the classifier of a network sees, and --method sa has no network.",
        ),
        ("infomax", "dev", "and estimates no risk from fewer than 5, got 4."),
    ],
)
def test_a_rule_whose_score_cannot_be_had_is_refused_before_training(
    cli, problem: Path, method: str, rule: str, reason: str
) -> None:
    path = manifest_path("toy", "left", problem / "manifests")
    lines = path.read_text().splitlines(keepends=True)
    held_out = [i for i, line in enumerate(lines) if ",eval" in line]
    for i in held_out[4:]:
        lines[i] = lines[i].replace(",eval", ",train")
    path.write_text("".join(lines))
    refused = cli(*toy_arguments(problem, "run", "--method", method, "--select", rule))
    assert refused.exit_code == 2, refused.output
    assert f"--select {rule} " in refused.output and reason in refused.output
    assert not (problem / "run").exists()


def test_a_score_that_is_never_finite_is_no_traceback(cli, problem: Path, monkeypatch) -> None:
    label_free = selection.scores.label_free
    monkeypatch.setattr(
        selection.scores, "label_free", lambda P: {**label_free(P), "bnm": math.nan}
    )
    result = cli(*toy_arguments(problem, "run", *EVERY, "--select", "bnm"))
    assert result.exit_code == 1
    assert "--select bnm was a finite number in none of 6 epochs" in result.output


def test_a_damaged_candidate_is_refused(cli, problem: Path) -> None:
    finished, _ = run(cli, problem, "run")
    config, _ = finished.read()
    epoch, path = next(iter(checkpoint.candidates(finished).items()))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    model = checkpoint.load_model(finished, config).model
    with pytest.raises(Exception, match="is damaged or not from this run"):
        checkpoint.load_candidate(finished, epoch, model)
    path.unlink()
    with pytest.raises(Exception, match=f"has no model of epoch {epoch}"):
        checkpoint.load_candidate(finished, epoch, model)
    selection.prune(finished)
