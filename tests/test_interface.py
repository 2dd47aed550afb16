"""The interface for Python: README's lines as they stand, and refusals that leave nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, make_store

import adapt
from adapt.runs import RunFolder
from store import FeatureStore
from store.datasets import manifest_path
from store.errors import ConfigError, Ma2lError, StoreError
from store.manifest import read_manifest

SMALL = {"levels": 3, "epochs": 2, "batch_size": 8, "width": 16, "discriminator_width": 16}


def folders(root: Path) -> dict[str, Path]:
    return {"features": root / "features", "manifests": root / "manifests"}


def configure(root: Path, **more: object):
    return adapt.configure(
        "left", "right", manifests=root / "manifests", compute="float32", **{**SMALL, **more}
    )


def test_the_lines_of_the_readme_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    for domain, dataset in (("ucf", "ucf101"), ("hmdb", "hmdb51")):
        listed = read_manifest(manifest_path("ucf-hmdb-full", domain))
        features = {v.id: draws.normal(size=(3, 4)) + v.label for v in listed}
        make_store(tmp_path / "features", dataset, features, {"backbone": "resnet101"})
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.split()
    result = RunFolder(tmp_path / "runs" / "first").result()
    assert said[:2] == [str(result.overall), str(result.overall)]
    names = {v.class_name for v in read_manifest(manifest_path("ucf-hmdb-full", "hmdb"))}
    assert len(said) == 5 and set(said[2:]) <= names


def test_the_interface_trains_what_the_command_trains(cli, problem: Path) -> None:
    config = configure(problem, seed=3)
    data = adapt.load(config, **folders(problem), device="cpu")
    seen = []
    result = adapt.train(config, data, problem / "a", on_epoch=lambda e, metrics: seen.append(e))
    assert seen == [1, 2]
    options = [f"--{n.replace('_', '-')}={value}" for n, value in SMALL.items()]
    done = cli(
        *("adapt", "--source", "left", "--target", "right", "--seed", 3, "--compute", "float32"),
        *(f"--{name}={path}" for name, path in folders(problem).items()),
        *(*options, "--run", problem / "b", "--device", "cpu"),
    )
    assert done.exit_code == 0, done.output
    assert RunFolder(problem / "b").result() == result == adapt.evaluate(problem / "a")
    models = [
        torch.load(problem / name / "checkpoint.pt", weights_only=True)["model"] for name in "ab"
    ]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_predictions_from_features_are_those_of_the_run(problem: Path) -> None:
    config = configure(problem)
    adapt.train(config, adapt.load(config, **folders(problem), device="cpu"), problem / "run")
    table = (problem / "run" / "predictions.csv").read_text().splitlines()[1:]
    [folder] = (problem / "features" / "right").iterdir()
    with FeatureStore(str(folder)) as store:
        features = [store.read(line.split(",")[0]) for line in table]
    found = adapt.predict(problem / "run", features, device="cpu")
    assert found.predicted == [line.split(",")[2] for line in table]
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-5)
    best = [float(line.split(",")[3]) for line in table]
    assert found.probabilities.max(axis=1) == pytest.approx(best, abs=6e-5)


REFUSED = {
    "shape": ([np.zeros((3, 16)), np.zeros(16)], r"Video 1 of 2 has features of shape \(16,\)"),
    "width": ([np.zeros((3, 8))], r"shape \(3, 8\); this run expects \(frames, 16\)"),
    "empty": ([np.zeros((0, 16))], r"shape \(0, 16\)"),
    "nan": ([np.full((3, 16), np.nan)], "not finite in float16"),
    "large": ([np.full((3, 16), 1e6)], "not finite in float16"),
    "none": ([], "There are no features to predict from."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_features_that_cannot_be_predicted_from(problem: Path, case: str) -> None:
    config = configure(problem, epochs=1)
    adapt.train(config, adapt.load(config, **folders(problem), device="cpu"), problem / "run")
    features, message = REFUSED[case]
    with pytest.raises(StoreError, match=message):
        adapt.predict(problem / "run", features, device="cpu")


def test_what_is_refused_leaves_nothing(problem: Path) -> None:
    config = configure(problem)
    data = adapt.load(config, **folders(problem), device="cpu")
    before = sorted(problem.iterdir())
    other = adapt.configure("right", "left", manifests=problem / "manifests", **SMALL)
    with pytest.raises(ConfigError, match="The config is for right -> left of toy, and the loaded"):
        adapt.train(other, data, problem / "run")
    huge = configure(problem, batch_size=10**9)
    with pytest.raises(ConfigError, match=r"These options need at least [\d,.]+ GB"):
        adapt.train(huge, data, problem / "run")
    for given in ({"kernels": 3}, {"method": "dann", "kernel": 3}, {"preset": "best"}):
        with pytest.raises(ConfigError):
            adapt.configure("left", "right", manifests=problem / "manifests", **given)
    for call in (adapt.evaluate, lambda run: adapt.predict(run, [np.zeros((3, 16))])):
        with pytest.raises(Ma2lError, match="There is no folder"):
            call(problem / "nothing")
    assert sorted(problem.iterdir()) == before


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'adapt' has no attribute 'trane'"):
        adapt.trane  # noqa: B018
    assert sorted(adapt.__all__) == ["configure", "evaluate", "load", "predict", "train"]
