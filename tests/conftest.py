"""Shared fixtures. Real clips are looked for in ../shared/clips or $MA2L_CLIPS; without them tests skip."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from adapt import methods
from adapt.config import DEFAULT_METHOD, AdaptConfig
from adapt.methods import Networks, Progress, StepLosses
from adapt.runs import RunFolder
from extract import timm_models, untrained, weights
from extract.state_dicts import state_sha256
from extract.synthetic import DOMAINS, make_collection
from store.format import store_folder
from store.manifest import Video, write_manifest
from store.records import VideoRecord
from store.tables import write_index
from store.write import ShardWriter

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
CONFIG = {"backbone": "fake", "weights_sha256": "0" * 64, "stride": 1}


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = Path(os.environ.get("MA2L_CLIPS", SHARED / "clips"))
    if not folder.is_dir():
        pytest.skip(f"no real clips in {folder} (set MA2L_CLIPS)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _calibrated_once() -> Iterator[None]:
    """Compute the batch norms of a model with random weights once per process, not for every test anew."""
    known: dict[tuple[object, ...], list[dict[str, torch.Tensor]]] = {}

    def calibrate(model: torch.nn.Module, seed: int, *, side: int = 224) -> None:
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        key = (state_sha256(model.state_dict()), seed, side, torch.get_num_threads())
        if norms and key in known:
            for norm, state in zip(norms, known[key], strict=True):
                norm.load_state_dict(state)
            model.eval()
            return
        untrained.calibrate_batch_norms(model, seed, side=side)
        known[key] = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "calibrate_batch_norms", calibrate)
        patch.setattr(timm_models, "calibrate_batch_norms", calibrate)
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """What runs on either: by default the CPU, with `-m gpu` the first GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def cli():
    """Run a command as a user does; returns click's result."""
    from cli import main

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return run


def slow(*values: object) -> Any:
    """A case of a parametrised test that `make slow` alone tries."""
    return pytest.param(*values, marks=pytest.mark.slow)


@contextmanager
def edited_json(path: Path) -> Iterator[Any]:
    """What a JSON file holds; changes of it are written back."""
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value))


def touch(root: Path, *names: str) -> Path:
    """Empty files below `root`, which is returned."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def fill(root: Path, *classes: str, count: int = 12, suffix: str = "mp4") -> Path:
    """Class folders below `root`, which is returned, with empty files called 000, 001, ..."""
    return touch(root, *(f"{name}/{i:03}.{suffix}" for name in classes for i in range(count)))


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """Two domains with the classes run and walk, twelve videos each."""
    return {domain: fill(tmp_path / domain, "run", "walk") for domain in ("phone", "cctv")}


def make_store(features: Path, dataset: str, videos: dict[str, np.ndarray], config=CONFIG) -> Path:
    """A store written through the store's own writer."""
    folder = store_folder(features, dataset, config)
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, 0, config) as writer:
        records = [writer.add(VideoRecord(video=v), x) for v, x in videos.items()]
    width = next(iter(videos.values())).shape[1]
    write_index(
        folder,
        dataset=dataset,
        config=config,
        width=width,
        records=records,
        run={"weights": "none"},
    )
    return folder


def make_problem(
    root: Path, *, classes=3, per_class=12, frames=12, width=16, shift=1.0, seed=0
) -> None:
    """Two domains of noisy class prototypes, the target shifted: manifests and features below `root`."""
    random = np.random.default_rng(seed)
    prototypes = random.normal(size=(classes, width)) * 2
    for domain, offset in (("left", 0.0), ("right", shift)):
        rows, features = [], {}
        for label in range(classes):
            for number in range(per_class):
                video = f"{domain}_{label}_{number}"
                split = "eval" if number < per_class // 3 else "train"
                rows.append(
                    Video(id=video, label=label, class_name=f"c{label}", split=split, frames=None)
                )
                count = frames + number % 3
                features[video] = prototypes[label] + offset + random.normal(size=(count, width))
        write_manifest(root / "manifests" / "toy" / f"{domain}.csv", rows)
        make_store(root / "features", domain, features)


def alive(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    make_problem(tmp_path)
    return tmp_path


def toy_arguments(root: Path, run: str, *more: object, command: str = "adapt") -> list[object]:
    """`adapt` on `make_problem`, small and quick: without baselines, with options that the method reads."""
    method = str(more[more.index("--method") + 1]) if "--method" in more else None
    small = {"epochs": 3, "batch_size": 8, "width": 16, "compute": "float32"}
    if method is None:
        small |= {"levels": 3, "discriminator_width": 16}
    reads = methods.find(method or DEFAULT_METHOD).reads
    options = [(f"--{name.replace('_', '-')}", v) for name, v in small.items() if name in reads]
    return [
        *(command, "--source", "left", "--target", "right", "--device", "cpu"),
        *("--features", root / "features", "--manifests", root / "manifests", "--run", root / run),
        *(["--no-baselines"] if command == "adapt" else []),
        *(part for option in options for part in option),
        *more,
    ]


def config_for(small: dict[str, Any], *, benchmark: str = "toy", **given: Any) -> AdaptConfig:
    """A config of `given`, and of what the method reads of `small`."""
    preset = given.pop("preset", None)
    reads = methods.find(given.get("method", "ma2l-td")).reads
    small = {name: value for name, value in small.items() if name in reads}
    return AdaptConfig.make(benchmark=benchmark, preset=preset, given={**small, **given})


def losses_of(config: AdaptConfig, model: Any, branch: Any, source: Any, target: Any) -> StepLosses:
    """The losses of a step of the config's method at the start of the training."""
    losses = methods.find(config.method).function("losses")
    result: StepLosses = losses(Networks(model, branch), source, target, config, Progress())
    return result


@contextmanager
def stopped_before(epoch: int) -> Iterator[None]:
    """Runs that train meanwhile are stopped, as by Ctrl-C, when this epoch is to be logged."""
    log = RunFolder.log

    def stop(run: RunFolder, metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == epoch:
            raise KeyboardInterrupt
        log(run, metrics)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunFolder, "log", stop)
        yield


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, flat, without the one thing that may differ between equal runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
        line |= {f"score {name}": value for name, value in line.pop("scores", {}).items()}
        for group in [name for name, value in line.items() if isinstance(value, dict)]:
            line |= {f"{group} {name}": value for name, value in line.pop(group).items()}
    return lines


@dataclass(frozen=True)
class Road:
    """A finished run on features of small videos, and where everything lies."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def places(self) -> tuple[object, ...]:
        return ("--manifests", self.root / "manifests", "--features", self.root / "features")

    def copied_run(self, to: Path) -> Path:
        """A copy of the run's folder that a test may change."""
        return Path(shutil.copytree(self.run, to))


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Videos of both domains, features in float32, and a run of two epochs; made once, for reading."""
    from cli import main

    road = Road(tmp_path_factory.mktemp("road"))
    for domain in DOMAINS:
        make_collection(road.root / domain, domain, per_action=2)
    small = ("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--precision", "float32")
    for arguments in (
        (
            *("manifest", "from-folder", "--benchmark", "mine", *road.places[:2]),
            *("--eval-fraction", 0.5, *(f"--domain={d}={road.root / d}" for d in DOMAINS)),
        ),
        *(
            (
                *("extract", "--dataset", domain, "--videos", road.root / domain, *road.places),
                *(*small, "--device", "cpu", "--workers", 1),
            )
            for domain in DOMAINS
        ),
        (
            *("adapt", "--source", DOMAINS[0], "--target", DOMAINS[1], *road.places),
            *("--epochs", 2, "--levels", 2, "--batch-size", 4, "--run", road.run),
            *("--device", "cpu", "--compute", "float32", "--no-baselines"),
        ),
    ):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
    return road
