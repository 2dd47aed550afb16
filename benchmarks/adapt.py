"""Time of a training step at the authors' sizes, beside a step with one module per slot.

Both do the same mathematics, which is checked first: losses and gradients agree in float64.
Then they run in turn, so that a busy machine slows both. Wall time needs a quiet machine; with one
thread, CPU time does not:

    python -m benchmarks.adapt
    python -m benchmarks.adapt --threads 1

Longer than the project's other modules because a benchmark is one script, read from top to bottom.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from adapt.bank import Bank, FeatureBank, MappedBank, sample
from adapt.compute import autocast, pick_device
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.discriminators import domain_losses
from adapt.loop import TrainingState, step
from adapt.methods import Progress
from adapt.methods.ma2l_td import Options
from adapt.pyramid import AdaptationBranch
from adapt.schedule import generator
from benchmarks.loop import LoopBranch
from benchmarks.timing import COLUMNS, Timed, Times, interleaved, limits, table
from store.machine import keep_freed_memory
from store.manifest import Video
from store.read import FeatureStore
from store.records import VideoRecord
from store.tables import write_index
from store.write import ShardWriter

PROGRESS = Progress(epoch=15, epochs=30)
VIDEOS, FRAMES, BACKBONE, CLASSES = 128, 100, 2048, 12
STORE = {"backbone": "random"}
COMPUTE = ("float32", "bfloat16")


def make_config(preset: str | None = "paper", **given: Any) -> AdaptConfig:
    """UCF -> HMDB_full: 53 frames, 5 levels, batch 32; with the preset `paper` 181 discriminators."""
    return AdaptConfig.make(
        benchmark="ucf-hmdb-full",
        preset=preset,
        given={"source": "ucf", "target": "hmdb", "compute": "float32", **given},
    )


def make_data(device: torch.device) -> TrainingData:
    """Random features of as many frames as HMDB51's videos have about."""
    draws = np.random.default_rng(0)
    source, target = (
        [draws.random((FRAMES, BACKBONE), np.float32).astype(np.float16) for _ in range(VIDEOS)]
        for _ in range(2)
    )
    return TrainingData(
        source=FeatureBank(source, device),
        labels_V=torch.arange(VIDEOS) % CLASSES,
        target=FeatureBank(target, device),
        classes=[str(i) for i in range(CLASSES)],
        device=device,
    )


class Batches:
    """Draws batches as training does."""

    def __init__(self, config: AdaptConfig, data: TrainingData) -> None:
        self.config, self.data = config, data
        self._random = generator(0, "benchmark")

    def __call__(self) -> tuple[SourceBatch, TargetBatch]:
        """A random batch of each domain."""
        source_B, target_B = (
            torch.randint(VIDEOS, (self.config.batch_size,), generator=self._random)
            for _ in range(2)
        )
        labels_B = self.data.labels_V[source_B].to(self.data.device)
        return (
            SourceBatch(self.frames(self.data.source, source_B), labels_B),
            TargetBatch(self.frames(self.data.target, target_B)),
        )

    def frames(self, bank: Bank, videos_B: Tensor) -> Tensor:
        """Jittered frames of some videos, (B, T, D)."""
        return bank.gather(videos_B, sample(bank, videos_B, self.config.frames, self._random))


def loop_state(config: AdaptConfig, data: TrainingData, ours: TrainingState) -> TrainingState:
    """A state whose branch is the loop, with the same parameters and PyTorch's default Adam."""
    assert isinstance(config, Options) and isinstance(ours.branch, AdaptationBranch)
    state = TrainingState(config, data)
    state.model.load_state_dict(ours.model.state_dict())
    branch = LoopBranch(config, ours.branch).to(data.device)
    state.networks.branch = branch.train()
    state.optimiser = torch.optim.Adam(
        [*state.model.parameters(), *branch.parameters()], lr=config.learning_rate
    )
    return state


def check_equal(config: AdaptConfig, data: TrainingData) -> float:
    """Largest relative difference of losses and of every parameter's gradient, in float64, dropout off.

    In float32 the rounding of a sum now and then turns a ReLU on that is off in the other order.

    Raises:
        click.ClickException: the two do not compute the same.
    """
    plain = dataclasses.replace(config, dropout=0.0)
    ours = TrainingState(plain, data)
    loop = loop_state(plain, data, ours)
    assert isinstance(loop.branch, LoopBranch) and ours.branch is not None
    source, target = Batches(plain, data)()
    batch = (
        SourceBatch(source.features_BTD.double(), source.labels_B),
        TargetBatch(target.features_BTD.double()),
    )
    for state in (ours, loop):
        assert state.branch is not None
        state.model.double()
        state.branch.double().eval()
        state.optimiser.step = lambda *_: None  # type: ignore[method-assign]
    losses = [step(plain, state, *batch, PROGRESS) for state in (ours, loop)]
    worst = max(_relative(losses[0][n], losses[1][n]) for n in losses[0])
    mine = dict(ours.branch.named_parameters())
    pairs = [(mine[name].grad, g) for name, g in loop.branch.gradients().items()]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.model.parameters(), loop.model.parameters())]
    # Biases in front of batch norm have gradients of rounding alone.
    rounding = 1e-14
    worst = max([worst, *(_relative(p, q) for p, q in pairs if q.abs().max() > rounding)])
    if worst > 1e-6:
        raise click.ClickException(f"The loop computes something else: {worst:.1e} apart.")
    return worst


def _relative(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None and b is not None
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def steps(config: AdaptConfig, data: TrainingData, ours: TrainingState) -> dict[str, Timed]:
    """A training step, data included, in every variant."""
    loop = loop_state(config, data, ours)
    batches = Batches(config, data)

    def run(state: TrainingState, compute: str, fused: bool) -> None:
        for group in state.optimiser.param_groups:
            group["fused"] = fused
        step(dataclasses.replace(config, compute=compute), state, *batches(), PROGRESS)

    return {
        "ours, float32": lambda: run(ours, "float32", True),
        "ours, bfloat16": lambda: run(ours, "bfloat16", True),
        "one module per slot": lambda: run(loop, "float32", False),
        "one module per slot, fused Adam": lambda: run(loop, "float32", True),
        "one module per slot, fused Adam, bfloat16": lambda: run(loop, "bfloat16", True),
    }


def others(config: AdaptConfig, data: TrainingData) -> dict[str, Timed]:
    """A step, data included, of what trains without a discriminator per slot, at the same sizes."""
    assert isinstance(config, Options)
    sizes = {"levels": config.levels, "discriminator_width": config.discriminator_width}

    def timed(given: dict[str, Any]) -> Timed:
        if given["method"] == "infomax":
            other = make_config("shared", frames=config.frames, **given)
        else:
            other = make_config("light", **sizes, **given)
        state, batches = TrainingState(other, data), Batches(other, data)
        return lambda: step(other, state, *batches(), PROGRESS)

    return {
        f"{name}, {compute}": timed({"method": method, "compute": compute})
        for name, method in (("ma2l-td, preset light", "ma2l-td"), ("infomax", "infomax"))
        for compute in COMPUTE
    }


def parts(config: AdaptConfig, data: TrainingData, state: TrainingState) -> dict[str, Timed]:
    """Each part of our step alone, forward and backward."""
    batches, device = Batches(config, data), data.device
    source, target = batches()
    videos = 2 * config.batch_size
    assert isinstance(config, Options) and isinstance(state.branch, AdaptationBranch)
    slots, branch = config.geometry.slots, state.branch
    domains_B = torch.arange(videos, device=device) % 2.0
    f = [torch.randn(videos, s, config.width, device=device, requires_grad=True) for s in slots]

    def encoder() -> None:
        with autocast(config.compute, device):
            encoded = [state.model.encode(b.features_BTD) for b in (source, target)]
            loss = sum(state.model.classify(x).square().mean() + x.mean() for x in encoded)
        loss.backward()

    def discriminators() -> None:
        with autocast(config.compute, device):
            z = [d(f[int(m) - 1]) for m, d in branch.discriminators.items()]
            loss = sum(domain_losses(z_BS, domains_B).sum() for z_BS in z)
        loss.backward()

    def aggregators() -> None:
        with autocast(config.compute, device):
            y = [a(x, x.detach().square().mean(2)) for a, x in zip(branch.aggregators, f)]
            loss = sum(F.layer_norm(y_BSC, y_BSC.shape[-1:]).square().mean() for y_BSC in y)
        loss.backward()

    gradients = [
        (p, torch.zeros_like(p)) for group in state.optimiser.param_groups for p in group["params"]
    ]

    def optimiser() -> None:
        for p, gradient in gradients:
            p.grad = gradient
        state.optimiser.step()

    def clear(run: Timed) -> Timed:
        def cleared() -> None:
            state.optimiser.zero_grad(set_to_none=True)
            run()

        return cleared

    return {
        "data": lambda: batches(),
        "encoder": clear(encoder),
        "discriminators": clear(discriminators),
        "aggregators": clear(aggregators),
        "optimiser": optimiser,
    }


def readers(config: AdaptConfig, data: TrainingData, folder: Path) -> dict[str, Timed]:
    """One domain's frames of a batch: from the bank, from mapped shards, from one file per frame."""
    listed = [
        Video(id=f"v{i}", label=0, class_name="a", split="train", frames=FRAMES)
        for i in range(VIDEOS)
    ]
    assert isinstance(data.source, FeatureBank)
    features = data.source.block.cpu().unflatten(0, (VIDEOS, FRAMES))
    with ShardWriter(folder, 0, STORE) as writer:
        records = [writer.add(VideoRecord(video=v.id), f.numpy()) for v, f in zip(listed, features)]
    write_index(
        folder, dataset="toy", config=STORE, width=BACKBONE, records=records, run={"weights": ""}
    )
    for video, frames in enumerate(features.float()):
        for frame, x_D in enumerate(frames):
            torch.save(x_D.clone(), folder / f"{video}-{frame}.pt")
    with FeatureStore(folder) as store:
        mapped = MappedBank(store, listed, data.device)
    batches, random = Batches(config, data), generator(0, "files")
    videos_B = torch.arange(config.batch_size)

    def from_files() -> Tensor:
        frames_BT = sample(data.source, videos_B, config.frames, random)
        rows = [
            torch.stack([torch.load(folder / f"{v}-{i}.pt", weights_only=True) for i in frames_T])
            for v, frames_T in enumerate(frames_BT.tolist())
        ]
        return torch.stack(rows).to(data.device)

    return {
        "bank": lambda: batches.frames(data.source, videos_B),
        "mapped": lambda: batches.frames(mapped, videos_B),
        "one file per frame (torch.save, in place of .t7)": from_files,
    }


def count(
    config: AdaptConfig, data: TrainingData, state: TrainingState
) -> tuple[float, float, int]:
    """Floating-point operations of products in a step, least bytes for its parameters, their number."""
    batch = Batches(config, data)()
    with FlopCounterMode(display=False) as counter:
        step(config, state, *batch, PROGRESS)
    parameters = sum(p.numel() for group in state.optimiser.param_groups for p in group["params"])
    # Adam reads parameter, gradient and two moments and writes three of them; forward and backward
    # read the parameter once each and write the gradient: ten float32 each.
    return counter.get_total_flops(), 40.0 * parameters, parameters


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Counted rounds of every variant.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=int, help="Of the CPU; torch's choice if not given.")
@click.option("--width", default=1024, show_default=True, help="Of the discriminators.")
@click.option("--levels", default=5, show_default=True, help="Fewer to try the script out.")
def main(rounds: int, device: str, threads: int | None, width: int, levels: int) -> None:
    """Check, time and count; prints Markdown."""
    where = pick_device(device)
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    config = make_config(discriminator_width=width, levels=levels)
    data = make_data(where)
    click.echo(describe(config, where, rounds))
    apart = check_equal(config, data)
    click.echo(f"\nOurs and the loop differ by at most {apart:.1e} in float64 (relative).")
    ours = TrainingState(config, data)
    stepping = interleaved(steps(config, data, ours), rounds, where)
    click.echo(table("A step", {n: t.cells() for n, t in stepping.items()}, COLUMNS))
    slow = stepping["one module per slot"]
    for compute in COMPUTE:
        fast = stepping[f"ours, {compute}"]
        click.echo(
            f"\nOurs, {compute}: {slow.median / fast.median:.2f} times as fast as one module per slot "
            f"by median wall time, {slow.least_cpu / fast.least_cpu:.2f} by least CPU time."
        )
    cheaper = interleaved(others(config, data), rounds, where)
    title = "A step without a discriminator per slot"
    click.echo(table(title, {n: t.cells() for n, t in cheaper.items()}, COLUMNS))
    for compute in COMPUTE:
        one = dataclasses.replace(config, compute=compute)
        pieces = interleaved(parts(one, data, ours), rounds, where)
        rows = {n: t.cells() for n, t in pieces.items()}
        click.echo(table(f"Parts of our step, {compute}", rows, COLUMNS))
        share = pieces["data"].least_cpu / stepping[f"ours, {compute}"].least_cpu
        click.echo(f"\nData: {share:.1%} of a step (least CPU time).")
    say_limits(config, data, ours, {c: stepping[f"ours, {c}"] for c in COMPUTE})
    with TemporaryDirectory() as folder:
        reading = interleaved(readers(config, data, Path(folder)), rounds, where)
    rows = {n: [f"{1 / t.median:.1f}", *t.cells()] for n, t in reading.items()}
    click.echo(table("One domain's frames of a batch, warm cache", rows, f"batches/s | {COLUMNS}"))


def describe(config: AdaptConfig, device: torch.device, rounds: int) -> str:
    """What runs where."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores"
    assert isinstance(config, Options)
    slots = sum(config.geometry.slots)
    return (
        f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start, torch "
        f"{torch.__version__}, {rounds} rounds; {slots} discriminators {config.discriminator_width} "
        f"wide, {config.frames} frames, batch {config.batch_size} and {config.batch_size}"
    )


def say_limits(
    config: AdaptConfig, data: TrainingData, state: TrainingState, stepping: dict[str, Times]
) -> None:
    """How far a step is from what the machine does at best."""
    flops, size, parameters = count(config, data, state)
    rates = {}
    for name, (amount, run) in limits(data.device).items():
        times = interleaved({name: run}, 10, data.device)[name]
        rates[name] = (amount / min(times.wall), amount / times.least_cpu)
    rows = {name: [f"{wall / 1e9:.1f}", f"{cpu / 1e9:.1f}"] for name, (wall, cpu) in rates.items()}
    click.echo(table("What the machine does at best", rows, "1e9/s of wall | 1e9/s of CPU"))
    click.echo(
        f"\nA step: {flops / 1e9:.1f} GFLOP in products, {parameters / 1e6:.1f} M parameters, at least "
        f"{size / 1e9:.1f} GB moved for them."
    )
    for compute, times in stepping.items():
        product = flops / rates[f"{compute}, 1024 x 1024 x 1024"][1]
        click.echo(
            f"\n{compute}: its products alone would take {1e3 * product:.0f} ms of CPU time at the "
            f"limit, {product / times.least_cpu:.0%} of the step's."
        )


if __name__ == "__main__":
    main()
