"""CORAL, subspace alignment and the geodesic flow kernel on mean features, with their classifiers."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, edited_json, metrics, toy_arguments
from sklearn.svm import LinearSVC

import adapt
from adapt import checkpoint, classifiers, methods
from adapt.bank import FeatureBank
from adapt.data import TrainingData
from adapt.loop import TrainingState, train
from adapt.runs import RunFolder
from adapt.shallow import Shallow
from store.errors import RunError
from store.read import FeatureStore

SHALLOW = ("coral", "gfk", "sa")
CPU = torch.device("cpu")
ROW, COLUMN = np.mgrid[0:12, 0:4]
# Twelve source and twelve target videos that another program can be given too.
SOURCE = np.sin(1.7 * ROW + 0.9 * COLUMN**2) + 0.3 * np.cos(2.1 * ROW * (COLUMN + 1))
TARGET = 1.5 * np.sin(0.8 * ROW * (COLUMN + 1)) + 0.2 * COLUMN + np.cos(1.3 * ROW) * (COLUMN == 2)
LABELS = np.arange(12) % 3


def data_of(
    source: np.ndarray, target: np.ndarray, labels: np.ndarray = LABELS, classes: int = 3
) -> TrainingData:
    """Videos of one frame each, or (V, T, D)."""
    banks = [
        FeatureBank([np.atleast_2d(x).astype(np.float32) for x in domain], CPU)
        for domain in (source, target)
    ]
    return TrainingData(
        source=banks[0],
        labels_V=torch.from_numpy(labels),
        target=banks[1],
        classes=[str(n) for n in range(classes)],
        device=CPU,
    )


def fitted(method: str, data: TrainingData, **given: Any) -> tuple[Shallow, dict[str, float]]:
    given = {"frames": 1, "normalisation": "none", "classifier": "nearest", **given}
    config = config_for({}, method=method, source="a", target="b", **given)
    networks = methods.find(method).build(config, data.source.width, len(data.classes))
    chosen = methods.find(method).function("fit")(networks, data, config)
    model: Shallow = networks.model.eval()
    return model, chosen


def as_batch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).float()[:, None]


def draw(shift: float, seed: int, videos: int = 40, width: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(9).normal(size=(4, width))
    return centres[np.arange(videos) % 4] + random.normal(size=(videos, width)) + shift


def test_coral_gives_skadas_numbers() -> None:
    """skada 0.6.0, CORALAdapter(reg=0.5): (C + mu I) / 2 of both, mu the mean variance; target centred."""
    model, _ = fitted("coral", data_of(SOURCE, TARGET))
    theirs = [
        [0.400011605, 1.2185822017, -0.2009939362, 1.2233844285],
        [0.8446664474, -0.354039844, -0.6622898486, -1.0308593074],
    ]
    np.testing.assert_allclose(model.points_Pk[[0, 5]].numpy() - TARGET.mean(0), theirs, atol=2e-6)


def test_subspace_alignment_gives_skadas_numbers() -> None:
    """skada 0.6.0, SubspaceAlignmentAdapter(2): distances between source and target videos."""
    model, chosen = fitted("sa", data_of(SOURCE, TARGET), dimension=2)
    target_Vk = model.align(as_batch(TARGET))
    for video, distance in ((0, 1.0924347532574517), (5, 2.1517934229294995)):
        found = (model.points_Pk[video] - target_Vk[video]).norm().item()
        assert found == pytest.approx(distance, rel=2e-6)
    assert chosen == {"dimension": 2.0}


def test_coral_gives_the_source_the_targets_moments() -> None:
    """Exactly as epsilon goes to 0; and a covariance that is the target's already stays."""
    source = draw(0, 0, videos=200)
    target = draw(3, 1, videos=200) @ np.random.default_rng(2).normal(size=(6, 6))
    labels = np.arange(200) % 4
    model, _ = fitted("coral", data_of(source, target, labels, 4), epsilon=1e-9)
    np.testing.assert_allclose(np.cov(model.points_Pk.T), np.cov(target.T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.points_Pk.mean(0), target.mean(0), atol=1e-4)
    same, _ = fitted("coral", data_of(source, source[::-1].copy(), labels, 4))
    np.testing.assert_allclose(same.points_Pk, source, atol=1e-5)


def test_equal_domains_are_projected_alike() -> None:
    x = draw(0, 0)
    for method in ("sa", "gfk"):
        data = data_of(x, x, np.arange(40) % 4, 4)
        model, _ = fitted(method, data, dimension=3)
        torch.testing.assert_close(model.align(as_batch(x)), model.points_Pk, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(as_batch(x)).argmax(1), data.labels_V)


def test_distances_of_gfk_are_those_of_the_kernel() -> None:
    """(x - y)^T G (x - y), G integrated numerically between bases from the covariances."""
    source, target = draw(0, 0), draw(1, 1) * [1, 2, 1, 1, 0.5, 1]
    model, _ = fitted("gfk", data_of(source, target, np.arange(40) % 4, 4), dimension=2)
    p, q = (np.linalg.eigh(np.cov(x.T))[1][:, ::-1][:, :2] for x in (source, target))
    u, cosine, v = np.linalg.svd(p.T @ q)
    a, theta = p @ u, np.arccos(cosine)
    b = (q @ v.T - a * cosine) / np.sin(theta)
    G = np.zeros((6, 6))
    for t in (np.arange(4000) + 0.5) / 4000:
        phi = a * np.cos(t * theta) + b * np.sin(t * theta)
        G += phi @ phi.T / 4000
    square = np.array([[(x - y) @ G @ (x - y) for y in source] for x in target])
    found = torch.cdist(model.align(as_batch(target)), model.points_Pk).square()
    np.testing.assert_allclose(found, square, rtol=1e-4, atol=1e-4)


def test_nearest_neighbours_in_plain_loops() -> None:
    """Logits are minus the square distance to each class's nearest video, in units of the spread."""
    model, _ = fitted("coral", data_of(SOURCE, TARGET))
    points = model.points_Pk.double().numpy()
    apart = [
        min(((x - y) ** 2).sum() for other, y in enumerate(points) if other != number)
        for number, x in enumerate(points)
    ]
    spread = sum(apart) / len(apart)
    for x, logits in zip(TARGET, model(as_batch(TARGET)).tolist()):
        for label in range(3):
            nearest = min(((x - y) ** 2).sum() for y in points[label == LABELS])
            assert logits[label] == pytest.approx(-nearest / spread, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_support_vector_machine_is_scikit_learns(classes: int) -> None:
    source, target = draw(0, 0, videos=60), draw(0.2, 1)
    labels = np.arange(60) % 4 % classes
    given = {"classifier": "svm", "normalisation": "l2"}
    model, chosen = fitted("sa", data_of(source, target, labels, classes), dimension=4, **given)
    assert chosen["C"] in (0.1, 1.0, 10.0, 100.0)
    s, t = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (source, target))
    p, q = (np.linalg.eigh(np.cov(x.T))[1][:, ::-1][:, :4] for x in (s, t))
    z_s, z_t = (s - s.mean(0)) @ p @ (p.T @ q), (t - t.mean(0)) @ q
    size = math.sqrt((z_s**2).sum(1).mean())
    machine = LinearSVC(C=chosen["C"], dual="auto", max_iter=20_000, random_state=0)
    machine.fit(z_s / size, labels)
    decisions = machine.decision_function(z_t / size)
    logits = model(as_batch(target)).double().numpy()
    if classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], decisions, rtol=1e-2, atol=2e-3)
    else:
        np.testing.assert_allclose(logits, decisions, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("classifier", ["svm", "nearest"])
@pytest.mark.parametrize("method", SHALLOW)
def test_a_gain_and_a_shift_of_each_channel_vanish_in_z_scores(
    method: str, classifier: str
) -> None:
    source, target = draw(0, 0), draw(0.1, 1)
    gain, shift = np.linspace(0.5, 2, 6), np.linspace(-3, 3, 6)
    given = {"normalisation": "z-score", "classifier": classifier}
    logits = []
    for x in (target, gain * target + shift):
        model, _ = fitted(method, data_of(source, x, np.arange(40) % 4, 4), **given)
        logits.append(model(as_batch(x)))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    assert (logits[0].argmax(1) == torch.arange(40) % 4).float().mean() > 0.8


@pytest.mark.parametrize("method", SHALLOW)
def test_a_video_is_predicted_alike_alone_and_among_others(method: str) -> None:
    data = data_of(draw(0, 0), draw(1, 1), np.arange(40) % 4, 4)
    for classifier in ("svm", "nearest"):
        model, _ = fitted(method, data, classifier=classifier)
        videos = as_batch(draw(1, 2))
        one_by_one = torch.cat([model(video[None]) for video in videos])
        torch.testing.assert_close(model(videos), one_by_one, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(videos.flip(0)).flip(0), one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", SHALLOW)
def test_the_order_of_the_training_videos_does_not_matter(method: str) -> None:
    source, target, labels = draw(0, 0), draw(1, 1), np.arange(40) % 4
    order = np.random.default_rng(0).permutation(40)
    more = {} if method == "coral" else {"dimension": 3}
    model, _ = fitted(method, data_of(source, target, labels, 4), **more)
    other, _ = fitted(method, data_of(source[order], target[::-1], labels[order], 4), **more)
    videos = as_batch(draw(1, 2))
    torch.testing.assert_close(model(videos), other(videos), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classifier", ["svm", "nearest"])
def test_a_class_without_a_source_video_is_never_predicted(classifier: str) -> None:
    labels = np.arange(12) % 2 * 2  # classes 0 and 2 of 0 to 3
    model, _ = fitted("coral", data_of(SOURCE, TARGET, labels, 4), classifier=classifier)
    logits = model(as_batch(TARGET))
    assert logits.isfinite().all() and set(logits.argmax(1).tolist()) <= {0, 2}
    assert logits.softmax(1)[:, [1, 3]].max() < 1e-20


def test_small_classes_are_fitted_too() -> None:
    labels = np.array([0] * 10 + [1, 2])
    for method in SHALLOW:
        model, _ = fitted(method, data_of(SOURCE, TARGET, labels), classifier="svm")
        assert model(as_batch(TARGET)).isfinite().all()
    once = data_of(SOURCE[:3], TARGET, np.arange(3))
    assert fitted("sa", once, classifier="svm")[0](as_batch(TARGET)).isfinite().all()


def test_validation_looks_at_so_many_videos_and_the_fit_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Watched(LinearSVC):
        def fit(self, x: np.ndarray, y: np.ndarray) -> Watched:
            seen.append(np.bincount(y, minlength=3).tolist())
            return super().fit(x, y)

    monkeypatch.setattr("sklearn.svm.LinearSVC", Watched)
    monkeypatch.setattr(classifiers, "MOST_VALIDATED", 40)
    labels = np.array([0] * 60 + [1] * 57 + [2] * 3)  # the last has fewer than there are folds
    fitted("coral", data_of(draw(0, 0, videos=120), draw(1, 1), labels), classifier="svm")
    assert seen[-1] == [60, 57, 3]
    assert len(seen) == 4 * 5 + 1
    for zero, one, two in seen[:-1]:  # four fifths of every third video of a class
        assert zero == 16 and one in (15, 16) and two <= 1, seen


def test_a_source_of_one_class_is_refused() -> None:
    data = data_of(SOURCE, TARGET, np.zeros(12, int))
    with pytest.raises(RunError) as caught:
        fitted("gfk", data)
    assert str(caught.value) == (
        "--method gfk needs source videos of two classes and two target videos. Add videos, or choose "
        "another method."
    )


def test_chosen_dimensions_are_within_what_the_paper_allows() -> None:
    for method, most in (("sa", 6), ("gfk", 3)):
        _, chosen = fitted(method, data_of(draw(0, 0), draw(1, 1), np.arange(40) % 4, 4))
        assert 1 <= chosen["dimension"] <= most


@pytest.mark.parametrize("preset", ["own", "shared"])
@pytest.mark.parametrize("method", SHALLOW)
def test_a_run_is_evaluated_again_and_predicts_from_tensors(
    cli, problem: Path, method: str, preset: str
) -> None:
    more = ("--method", method, "--preset", preset)
    result = cli(*toy_arguments(problem, "run", *more))
    assert result.exit_code == 0, result.output
    assert "Computing in" not in result.output  # there is no --compute to be read
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    assert RunFolder(problem / "run").result().overall == 100  # z-scores undo the toy's shift
    tensors = torch.load(problem / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert all(isinstance(x, torch.Tensor) for x in tensors.values())
    [line] = metrics(problem / "run")
    assert line["epoch"] == 1 and ("dimension" in line) == (method != "coral")
    [store] = (problem / "features" / "right").glob("fake-*")
    with FeatureStore(store) as opened:
        videos = [opened.read(f"right_{label}_0") for label in range(3)]
    said = adapt.predict(problem / "run", videos, device="cpu")
    assert said.predicted == ["c0", "c1", "c2"]
    assert said.probabilities.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("method", SHALLOW)
def test_a_kept_fit_goes_on_to_the_same_end(tmp_path: Path, method: str) -> None:
    """What was fitted is read back, whatever its size, and is not fitted again."""
    data = data_of(draw(0, 0), draw(1, 1), np.arange(40) % 4, 4)
    config = config_for({}, method=method, source="a", target="b", frames=1)
    state = TrainingState(config, data)
    train(config, data, state, lambda metrics: None)
    kept = TrainingState(config, data)
    kept.load_state_dict(state.state_dict())
    seen: list[Any] = []
    train(config, data, kept, seen.append)
    assert seen == []
    for name, value in state.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], value)


def test_a_checkpoint_of_another_shape_is_refused(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run", "--method", "gfk")).exit_code == 0
    run = RunFolder(problem / "run")
    config, _ = run.read()
    path = problem / "run" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["points_Pk"] = torch.zeros(3)
    torch.save(content, path)
    with edited_json(problem / "run" / "done.json") as done:
        done["checkpoint_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RunError, match="does not fit the run's config"):
        checkpoint.load_model(run, config)
