"""`--input-coral`: the map against its formula, and that training, prediction and checkpoints see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, make_store, stopped_before, toy_arguments
from scipy.linalg import fractional_matrix_power
from test_parallel import TORCHRUN, run, same_run
from test_robust import outcome

import adapt
from adapt import methods, recolour
from adapt.bank import Bank, FeatureBank, load_bank
from adapt.config import AdaptConfig
from adapt.data import TrainingData
from adapt.loading import Loaded
from adapt.loop import TrainingState, train
from adapt.methods import Networks
from adapt.prediction import as_source, as_target, predict
from adapt.recolour import Recolouring, moments, predicting, recoloured
from adapt.runs import RunFolder
from store.errors import ConfigError, RunError
from store.manifest import Video
from store.read import FeatureStore

CPU = torch.device("cpu")
WAYS = ("source-to-target", "target-to-source")
READERS = [name for name in methods.names() if "input_coral" in methods.find(name).reads]


def draw(shift: float, seed: int, videos: int = 12, width: int = 6) -> list[np.ndarray]:
    """Videos of 3 to 5 frames, float32, whose channels are correlated."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(width, width))
    return [
        (random.normal(size=(3 + number % 3, width)) @ mixing + shift).astype(np.float32)
        for number in range(videos)
    ]


def rows_of(videos: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(videos).astype(np.float64)


def fitted(mapped: list[np.ndarray], towards: list[np.ndarray], share: float) -> Recolouring:
    found = Recolouring(mapped[0].shape[1]).double()
    found.fit(FeatureBank(mapped, CPU), FeatureBank(towards, CPU), share)
    return found


@pytest.mark.parametrize("block", [4, 7, 4096])
def test_moments_are_those_of_all_frames(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(recolour, "_BLOCK", block)
    videos = [*draw(3, 0), *draw(-2, 1, videos=1), np.ones((11, 6), np.float32)]
    sizes = []
    bank = FeatureBank(videos, CPU)
    gather = bank.gather

    def watched(videos_B: torch.Tensor, frames_BT: torch.Tensor) -> torch.Tensor:
        sizes.append(frames_BT.numel())
        return gather(videos_B, frames_BT)

    monkeypatch.setattr(bank, "gather", watched)
    found = moments(bank, CPU)
    rows = rows_of(videos)
    np.testing.assert_allclose(found.mean_D, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance_DD, np.cov(rows.T), rtol=1e-11, atol=1e-12)
    assert max(sizes) <= block and sum(sizes) == len(rows)


def test_moments_of_mapped_shards(tmp_path: Path) -> None:
    videos = {f"v{n}": x.astype(np.float16) for n, x in enumerate(draw(3, 0))}
    folder = make_store(tmp_path, "toy", videos)
    listed = [Video(id=v, label=0, class_name="c", split="train", frames=None) for v in videos]
    with FeatureStore(folder) as store:
        found = moments(load_bank(store, listed, CPU, "mapped"), CPU)
    rows = rows_of(list(videos.values()))
    np.testing.assert_allclose(found.covariance_DD, np.cov(rows.T), rtol=1e-11)


def test_the_map_is_the_formula() -> None:
    """Roots by scipy's Schur method, each video's frames one by one."""
    source, target = draw(3, 0), draw(-1, 1)
    found = fitted(source, target, 0.1)
    covariances = [np.cov(rows_of(videos).T) for videos in (source, target)]
    a, b = (C + 0.1 * np.linalg.norm(C, 2) * np.eye(6) for C in covariances)
    matrix = fractional_matrix_power(a, -0.5) @ fractional_matrix_power(b, 0.5)
    means = [rows_of(videos).mean(0) for videos in (source, target)]
    for frame in rows_of(source):
        expected = (frame - means[0]) @ matrix + means[1]
        np.testing.assert_allclose(found(torch.from_numpy(frame)), expected, rtol=1e-8, atol=1e-8)


def test_mapped_frames_have_the_other_domains_moments() -> None:
    source, target = draw(3, 0, videos=40), draw(-1, 1, videos=50)
    rows = fitted(source, target, 1e-10)(torch.from_numpy(rows_of(source))).numpy()
    np.testing.assert_allclose(rows.mean(0), rows_of(target).mean(0), atol=1e-9)
    np.testing.assert_allclose(np.cov(rows.T), np.cov(rows_of(target).T), rtol=1e-6, atol=1e-6)


def test_equal_domains_stay_and_the_scale_of_a_domain_is_undone() -> None:
    source, target = draw(3, 0), draw(-1, 1)
    frames = torch.from_numpy(rows_of(source))
    torch.testing.assert_close(fitted(source, source[::-1], 0.3)(frames), frames)
    scaled = [np.float32(8) * x for x in source]
    torch.testing.assert_close(
        fitted(scaled, target, 0.3)(8 * frames), fitted(source, target, 0.3)(frames)
    )


def test_fewer_frames_than_dimensions_and_constant_channels() -> None:
    few, many = draw(0, 0, videos=2, width=20), draw(1, 1, videos=30, width=20)
    few = [x * np.r_[0, np.ones(19)].astype(np.float32) for x in few]
    for way in ((few, many), (many, few)):
        mapped = fitted(*way, 0.01)(torch.from_numpy(rows_of(way[0])))
        assert mapped.isfinite().all()
    still = [np.ones((3, 20), np.float32)] * 4
    with pytest.raises(RunError, match="all its features are the same"):
        fitted(still, many, 0.01)
    with pytest.raises(RunError, match="needs more than one frame of each domain"):
        fitted([np.ones((1, 20), np.float32)], many, 0.01)


def make_loaded(source: list[np.ndarray], target: list[np.ndarray]) -> Loaded:
    """Both domains as training videos, and again as videos that are held out."""
    banks: list[Bank] = [FeatureBank(videos, CPU) for videos in (source, target)]
    data = TrainingData(
        source=banks[0],
        labels_V=torch.arange(len(source)) % 3,
        target=banks[1],
        classes="abc",
        device=CPU,
    )
    return Loaded(
        domains=("toy", "a", "b"),
        data=data,
        held_out=[],
        held_out_bank=banks[1],
        source_held_out=[],
        source_held_out_bank=banks[0],
        record=None,  # type: ignore[arg-type]
    )


def make_config(method: str, **given: Any) -> AdaptConfig:
    small = {
        **{"source": "a", "target": "b", "width": 4, "levels": 2, "frames": 3, "epochs": 2},
        **{"batch_size": 6, "compute": "float32", "discriminator_width": 4},
        **{"initialisation": "default", "learning_rate": 0.01},
    }
    return config_for(small, method=method, **given)


def trained(config: AdaptConfig, loaded: Loaded) -> tuple[Networks, list[torch.Tensor]]:
    """The networks, and logits of the target's videos as stored, of theirs as the run reads them, and of
    the source's as the run reads them."""
    state = TrainingState(config, loaded.data)
    run = recoloured(config, loaded, state.recolouring, fit=True)
    train(config, run.data, state, lambda metrics: None)
    model = as_target(config, state.networks, run.data)
    stored = predicting(config, model, state.recolouring)
    assert run.source_held_out_bank is not None
    of_source = as_source(config, state.networks, run.data)
    logits = [
        predict(stored, loaded.held_out_bank, config),
        predict(model, run.held_out_bank, config),
        predict(of_source, run.source_held_out_bank, config),
    ]
    return state.networks, logits


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", READERS)
def test_every_method_trains_on_what_is_mapped(method: str, way: str) -> None:
    """As on features that were mapped beforehand: networks, and predictions of features as stored."""
    source, target = draw(3, 0), draw(-1, 1)
    networks, logits = trained(make_config(method, input_coral=way), make_loaded(source, target))
    pair = {"source-to-target": (source, target), "target-to-source": (target, source)}[way]
    by_hand = fitted(*pair, 0.01).float()
    mapped = [by_hand(torch.from_numpy(x)).numpy() for x in pair[0]]
    domains = (mapped, target) if way == WAYS[0] else (source, mapped)
    twin, expected = trained(make_config(method), make_loaded(*domains))
    for found, by_twin in zip(logits, expected):
        torch.testing.assert_close(found, by_twin, rtol=1e-3, atol=1e-4)
    for p, q in zip(networks.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    plain = trained(make_config(method), make_loaded(source, target))[1]
    assert (plain[0] - expected[0]).abs().max() > 3e-3  # the map makes a difference


def test_features_that_are_not_mapped_are_refused() -> None:
    loaded = make_loaded(draw(3, 0), draw(-1, 1))
    for way in WAYS:
        config = make_config("infomax", input_coral=way)
        with pytest.raises(ValueError, match="these features are not mapped"):
            train(config, loaded.data, TrainingState(config, loaded.data), lambda metrics: None)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_resumed_and_evaluated_with_its_map(
    cli, problem: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--method", "source-only", "--preset", "shared", "--input-coral", way)
    more = (*more, "--checkpoint-every", 1, "--epochs", 15, "--learning-rate", 0.02)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    mapped = cli(*toy_arguments(problem, "mapped", *more, "--bank", "mapped"))
    assert mapped.exit_code == 0, mapped.output
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    with monkeypatch.context() as patch:
        patch.setattr(Recolouring, "fit", None)  # the kept map goes on, none is computed
        resumed = cli(*toy_arguments(problem, "run", *more, "--resume"))
    assert resumed.exit_code == 0, resumed.output
    assert outcome(problem / "run") == outcome(problem / "calm") == outcome(problem / "mapped")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output

    tensors = torch.load(problem / "run" / "checkpoint.pt", weights_only=True)["model"]
    kept = {name for name in tensors if name.startswith("recolouring.")}
    assert len(kept) == (0 if way == "source-to-target" else 3)
    [store] = (problem / "features" / "right").glob("fake-*")
    with FeatureStore(store) as opened:
        videos = [opened.read(f"right_{label}_0") for label in range(3)]
    assert adapt.predict(problem / "run", videos, device="cpu").predicted == ["c0", "c1", "c2"]
    assert RunFolder(problem / "run").result().overall == 100  # the toy's shift is undone


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_several_processes_share_the_map(cli, problem: Path, way: str) -> None:
    more = ("--method", "source-only", "--preset", "shared", "--input-coral", way)
    assert cli(*toy_arguments(problem, "one", *more)).exit_code == 0
    process = run(*TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "two", *more))
    assert process.returncode == 0, process.stderr
    same_run(problem / "one", problem / "two")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"input_coral_epsilon": 0.1},
            "--input-coral-epsilon is read only with --input-coral source-to-target or --input-coral "
            "target-to-source, and --input-coral is none. Leave it out, or give --input-coral "
            "source-to-target or --input-coral target-to-source.",
        ),
        (
            {"input_coral": "source-to-target", "input_coral_epsilon": 0.0},
            "--input-coral-epsilon must be above 0, got 0.",
        ),
        (
            {"input_coral": "both"},
            "--input-coral must be one of none, source-to-target, target-to-source, got 'both'.",
        ),
    ],
    ids=str,
)
def test_refusals(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config("source-only", **given)
    assert str(caught.value) == text


def test_the_epsilon_is_recorded_only_where_it_is_read() -> None:
    assert "input_coral_epsilon" not in make_config("dann").as_dict()
    config = make_config("dann", input_coral="target-to-source", input_coral_epsilon=0.5)
    assert config.as_method("infomax").input_coral_epsilon == 0.5
    assert AdaptConfig.load(config.as_dict()) == config
