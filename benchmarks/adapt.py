"""Time of a training step at the authors' sizes, beside a step with one module per slot.

Both do the same mathematics, which is checked first: losses and gradients agree to float32 accuracy.
Then they run in turn, so that a busy machine slows both. Run alone on a quiet machine:

    python -m benchmarks.adapt --rounds 5
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
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
from adapt.compute import autocast, keep_freed_memory
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import domain_losses
from adapt.schedule import generator
from adapt.train import State, TrainingData, step
from benchmarks.loop import LoopBranch
from extract.device import pick_device
from extract.manifest import Video
from extract.store import FeatureStore, VideoRecord
from extract.write import ShardWriter, write_index

COEFFICIENT = 0.5
VIDEOS, FRAMES, BACKBONE, CLASSES = 128, 100, 2048, 12
STORE = {"backbone": "random"}
Timed = Callable[[], object]


def make_config(**given: Any) -> AdaptConfig:
    """UCF -> HMDB_full with the preset `paper`: 53 frames, 5 levels, 181 discriminators, batch 32."""
    return AdaptConfig.make(
        benchmark="ucf-hmdb-full",
        preset="paper",
        given={"source": "ucf", "target": "hmdb", **given},
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


def loop_state(config: AdaptConfig, data: TrainingData, ours: State) -> State:
    """A state whose branch is the loop, with the same parameters and PyTorch's default Adam."""
    state = State(dataclasses.replace(config, method="source-only"), data)
    state.model.load_state_dict(ours.model.state_dict())
    assert ours.branch is not None
    branch = LoopBranch(config, ours.branch).to(data.device)
    state.branch = branch.train()
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
    ours = State(plain, data)
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
    losses = [step(plain, state, *batch, COEFFICIENT) for state in (ours, loop)]
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


def interleaved(
    variants: dict[str, Timed], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every variant in every round, one after the other; a first round is not counted."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, run in variants.items():
            taken = _seconds(run, device)
            if number:
                seconds[name].append(taken)
    return dict(seconds)


def _seconds(run: Timed, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def steps(config: AdaptConfig, data: TrainingData) -> tuple[dict[str, Timed], State]:
    """A training step, data included, in every variant."""
    ours = State(config, data)
    loop = loop_state(config, data, ours)
    batches = Batches(config, data)

    def run(state: State, compute: str, fused: bool) -> None:
        for group in state.optimiser.param_groups:
            group["fused"] = fused
        step(dataclasses.replace(config, compute=compute), state, *batches(), COEFFICIENT)

    return {
        "ours, float32": lambda: run(ours, "float32", True),
        "ours, bfloat16": lambda: run(ours, "bfloat16", True),
        "one module per slot": lambda: run(loop, "float32", False),
        "one module per slot, fused Adam": lambda: run(loop, "float32", True),
        "one module per slot, fused Adam, bfloat16": lambda: run(loop, "bfloat16", True),
    }, ours


def parts(config: AdaptConfig, data: TrainingData, state: State) -> dict[str, Timed]:
    """Each part of our step alone, forward and backward."""
    batches, device = Batches(config, data), data.device
    source, target = batches()
    videos = 2 * config.batch_size
    slots, branch = config.geometry.slots, state.branch
    assert branch is not None
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


def limits(device: torch.device) -> dict[str, tuple[float, Timed]]:
    """What the machine can do at best here: (operations or bytes, what does them)."""
    n, slots, rows = 1024, 64, 64
    a = torch.randn(n, n, device=device)
    x, w = torch.randn(slots, rows, n, device=device), torch.randn(slots, n, n, device=device)
    b, xb, wb = a.bfloat16(), x.bfloat16(), w.bfloat16()
    to = torch.empty_like(w)
    return {
        "float32, 1024 x 1024 x 1024": (2.0 * n**3, lambda: a @ a),
        "bfloat16, 1024 x 1024 x 1024": (2.0 * n**3, lambda: b @ b),
        "float32, 64 slots of 64 x 1024 x 1024": (2.0 * slots * rows * n * n, lambda: x @ w),
        "bfloat16, 64 slots of 64 x 1024 x 1024": (2.0 * slots * rows * n * n, lambda: xb @ wb),
        "copy, bytes": (2.0 * w.nbytes, lambda: to.copy_(w)),
    }


def count(config: AdaptConfig, data: TrainingData, state: State) -> tuple[float, float, int]:
    """Floating-point operations of products in a step, least bytes for its parameters, their number."""
    batch = Batches(config, data)()
    with FlopCounterMode(display=False) as counter:
        step(config, state, *batch, COEFFICIENT)
    parameters = sum(p.numel() for group in state.optimiser.param_groups for p in group["params"])
    # Adam reads parameter, gradient and two moments and writes three of them; forward and backward
    # read the parameter once each and write the gradient: ten float32 each.
    return counter.get_total_flops(), 40.0 * parameters, parameters


def table(title: str, rows: dict[str, list[str]], columns: str) -> str:
    """Markdown; `columns` separated by `|`."""
    lines = [f"\n{title}\n", f"| | {columns} |", "|---" * (columns.count("|") + 2) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def in_ms(seconds: list[float]) -> list[str]:
    """Median, least and each."""
    each = " ".join(f"{1e3 * s:.0f}" if s > 0.02 else f"{1e3 * s:.2f}" for s in seconds)
    return [f"{1e3 * statistics.median(seconds):.1f}", f"{1e3 * min(seconds):.1f}", each]


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Counted rounds of every variant.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--width", default=1024, show_default=True, help="Of the discriminators.")
@click.option("--levels", default=5, show_default=True, help="Fewer to try the script out.")
def main(rounds: int, device: str, width: int, levels: int) -> None:
    """Check, time and count; prints Markdown."""
    where = pick_device(device)
    keep_freed_memory()
    config = make_config(discriminator_width=width, levels=levels)
    data = make_data(where)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if where.type == "cuda" else platform.processor()
    click.echo(
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, {rounds} rounds, "
        f"{sum(config.geometry.slots)} discriminators {width} wide, batch {config.batch_size}\n"
    )
    click.echo(f"Ours and the loop differ by at most {check_equal(config, data):.1e} (relative).")

    columns = "median, ms | least, ms | each round, ms"
    variants, ours = steps(config, data)
    taken = interleaved(variants, rounds, where)
    click.echo(table("A step", {n: in_ms(s) for n, s in taken.items()}, columns))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    slow = medians["one module per slot"]
    for name in ("ours, float32", "ours, bfloat16"):
        click.echo(f"\n{name}: {slow / medians[name]:.2f} times as fast as one module per slot.")
    variants.clear()

    for compute in ("float32", "bfloat16"):
        one = dataclasses.replace(config, compute=compute)
        pieces = interleaved(parts(one, data, ours), rounds, where)
        click.echo(
            table(
                f"Parts of our step, {compute}", {n: in_ms(s) for n, s in pieces.items()}, columns
            )
        )
        share = statistics.median(pieces["data"]) / medians[f"ours, {compute}"]
        click.echo(f"\nData: {100 * share:.1f} % of a step.")

    flops, size, parameters = count(config, data, ours)
    rates = {}
    for name, (amount, run) in limits(where).items():
        rates[name] = amount / min(interleaved({name: run}, 10, where)[name])
    click.echo(
        table(
            "What the machine does at best",
            {n: [f"{r / 1e9:.1f}"] for n, r in rates.items()},
            "1e9/s",
        )
    )
    click.echo(
        f"\nA step: {flops / 1e9:.1f} GFLOP in products, {parameters / 1e6:.1f} M parameters, at least "
        f"{size / 1e9:.1f} GB moved for them."
    )
    for compute in ("float32", "bfloat16"):
        product = flops / rates[f"{compute}, 1024 x 1024 x 1024"]
        memory = size / rates["copy, bytes"]
        click.echo(
            f"{compute}: products alone at the limit {1e3 * product:.0f} ms, memory alone "
            f"{1e3 * memory:.0f} ms, the step {1e3 * medians[f'ours, {compute}']:.0f} ms: "
            f"{product / medians[f'ours, {compute}']:.0%} of the limit of products."
        )
    with TemporaryDirectory() as folder:
        reading = interleaved(readers(config, data, Path(folder)), rounds, where)
    rows = {n: [f"{1 / statistics.median(s):.1f}", *in_ms(s)] for n, s in reading.items()}
    click.echo(table("Frames of one domain's batch, warm cache", rows, f"batches/s | {columns}"))


if __name__ == "__main__":
    main()
