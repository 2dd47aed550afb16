"""Level weights in the log, and attention over time against sums over all paths of the pyramid."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, slow, toy_arguments
from test_pyramid import make_batch, make_branch, make_config
from test_report import svg as picture_in
from test_report import train, words, write

from adapt import methods
from adapt.attending import weights_over_time
from adapt.bank import FeatureBank
from adapt.methods import Networks
from adapt.pyramid import AdaptationBranch
from adapt.slot_attention import frame_shares, slot_attention
from store.manifest import read_manifest


@pytest.mark.parametrize("preset", ["paper", "released", "light"])
def test_level_weights_are_logged_by_level(cli, problem: Path, preset: str, monkeypatch) -> None:
    seen: list[torch.Tensor] = []
    forward = AdaptationBranch.forward

    def watched(self: AdaptationBranch, *given: Any) -> Any:
        found = forward(self, *given)
        if self.training:
            seen.append(found.level_weights_BL.detach().double())
        return found

    monkeypatch.setattr(AdaptationBranch, "forward", watched)
    result = cli(*toy_arguments(problem, "run", "--preset", preset))
    assert result.exit_code == 0, result.output
    lines = [json.loads(x) for x in (problem / "run" / "metrics.jsonl").read_text().splitlines()]
    if preset == "light":  # equal by definition
        assert all("level_weights" not in line for line in lines)
        return
    names = ["level 1, 9 slots", "level 2, 7 slots", "level 3, 1 slot"]
    names = names[1:] if preset == "released" else names
    steps = len(seen) // len(lines)
    for number, line in enumerate(lines):
        assert list(line["level_weights"]) == names
        assert sum(line["level_weights"].values()) == pytest.approx(1, abs=1e-6)
        of_epoch = torch.stack(seen[number * steps : (number + 1) * steps])
        expected = of_epoch.mean(dim=(0, 1)).tolist()
        assert list(line["level_weights"].values()) == pytest.approx(expected, rel=1e-5)
    assert "level_weights level" not in result.output, "a group is no loss"


def paths(config: Any, losses: dict[int, torch.Tensor], video: int) -> list[float]:
    """Weights of the frames: over all ways down from the last slot, the product of the weights (eq. 12)."""
    q, dilations = config.kernel, config.geometry.dilations
    frames = [0.0] * config.frames
    for steps in itertools.product(range(q), repeat=len(dilations)):
        slot, weight = 0, 1.0
        for level in range(len(dilations), 0, -1):  # from level + 1 to level
            d = dilations[level - 1]
            if level in losses:
                field = [float(losses[level][video, slot + s * d]) + 1e-6 for s in range(q)]
                weight *= field[steps[level - 1]] / sum(field)
            else:
                weight /= q
            slot += steps[level - 1] * d
        frames[slot] += weight
    return frames


@pytest.mark.parametrize(
    "given",
    [{}, {"kernel": 2, "levels": 4}, {"first_level": False}, {"adversarial_levels": "frame-video"}],
    ids=str,
)
def test_attention_is_the_sum_over_all_paths(given: dict[str, Any]) -> None:
    config = make_config(**given)
    branch = make_branch(config)
    f_BTC, domains_B = make_batch(config)
    with torch.no_grad():
        both = branch(f_BTC, domains_B, 1.0, 2)
        found = [
            slot_attention(branch, f_BTC[rows], source=rows.start is None)
            for rows in (slice(2), slice(2, None))
        ]
    losses = dict(zip(config.discriminated_levels, both.slot_losses, strict=True))
    weights_BT = torch.cat([part.weights_BT for part in found])
    for video in range(4):
        expected = paths(config, losses, video)
        assert weights_BT[video].tolist() == pytest.approx(expected, rel=1e-9)
    assert weights_BT.sum(dim=1).tolist() == pytest.approx([1] * 4)
    assert (weights_BT[0] - weights_BT[2]).abs().max() > 1e-4
    assert found[0].even_T.tolist() == pytest.approx(paths(config, {}, 0))


def test_even_weights_of_the_published_pyramid_overlap() -> None:
    """Kernel 3 with 5 levels: 81 ways to 53 frames, to some of which several lead."""
    config = config_for({}, source="a", target="b", preset="paper", levels=5)
    even_T = frame_shares(config.geometry, [None] * 4)[0]
    counts = [0] * 53
    for a, b, c, d in itertools.product(range(3), repeat=4):
        counts[a + 3 * b + 7 * c + 15 * d] += 1
    assert max(counts) > 1
    assert even_T.tolist() == pytest.approx([count / 81 for count in counts])


def test_relations_weigh_the_frames_of_their_tuples() -> None:
    config = config_for({}, method="ta3n", source="a", target="b", frames=4, width=6)
    method = methods.find("ta3n")
    torch.manual_seed(0)
    networks = method.build(config, 5, 3).double().eval()
    for parameter in networks.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    x_BTD = torch.randn(3, 4, 5, dtype=torch.float64)
    found = method.function("attention")(networks, x_BTD, config, source=True)
    model = networks.model
    logits = model.relate(model.encode(x_BTD), 0.0).domain_logits.softmax(dim=-1)
    # ceil(i C / 3) of the C ordered tuples: all 4; of 4 triples the numbers 0, 2, 3; of 6 pairs 0, 2, 4.
    tuples = [["0123"], ["012", "023", "123"], ["01", "03", "13"]]
    for video in range(3):
        weights, even = [0.0] * 4, [0.0] * 4
        for n, chosen in enumerate(tuples):
            p = logits[video, n].tolist()
            w = 1 + sum(x * np.log(x) for x in p)
            for frame in map(int, "".join(chosen)):
                weights[frame] += 1 + w
                even[frame] += 1
        expected = [weight / sum(weights) for weight in weights]
        assert found.weights_BT[video].tolist() == pytest.approx(expected)
        assert found.even_T.tolist() == pytest.approx([x / sum(even) for x in even])


def test_many_videos_are_each_weighed_alone() -> None:
    """65 videos are more than a batch; frames are those of the segments' centres."""
    config = make_config(width=8)
    torch.manual_seed(0)
    networks: Networks = methods.find("ma2l-td").build(config, 6, 3)
    random = np.random.default_rng(0)
    features = [random.normal(size=(9 + i % 4, 6)).astype(np.float16) for i in range(65)]
    found = weights_over_time(
        config, networks, FeatureBank(features, torch.device("cpu")), source=False
    )
    assert found is not None and found.weights_BT.shape == (65, 9)
    attention = methods.find("ma2l-td").function("attention")
    for video in (0, 3, 64):
        x = features[video]
        frames = [int((t + 0.5) * len(x) / 9) for t in range(9)]
        with torch.no_grad():
            alone = attention(networks, torch.tensor(x[frames])[None].float(), config, source=False)
        torch.testing.assert_close(found.weights_BT[video], alone.weights_BT[0])
    assert not networks.training


@pytest.mark.parametrize("method", ["ma2l-td", slow("ta3n")])
def test_the_report_shows_what_the_run_kept(
    cli, problem: Path, tmp_path: Path, method: str
) -> None:
    more = ("--levels", 3, "--discriminator-width", 16) if method == "ma2l-td" else ("--frames", 4)
    run = train(problem, "run", method, *more)
    record = json.loads((run / "attention.json").read_text())
    assert record["epoch"] == 3 and sum(record["even"]) == pytest.approx(1, abs=1e-5)
    for row, domain in zip(record["domains"], ("left", "right"), strict=True):
        listed = read_manifest(problem / "manifests" / "toy" / f"{domain}.csv")
        assert row["domain"] == domain and row["source"] == (domain == "left")
        assert list(row["single"]) == [v.id for v in listed if v.split == "eval"]
        columns = list(zip(*row["single"].values()))
        assert all(sum(x) == pytest.approx(1, abs=1e-5) for x in row["single"].values())
        assert row["mean"] == pytest.approx([statistics.fmean(c) for c in columns], abs=1e-6)
        assert row["deviation"] == pytest.approx([statistics.pstdev(c) for c in columns], abs=1e-6)
        assert row["videos"] == 12
    plots = tmp_path / "plots"
    text, _, _ = write(cli, tmp_path / "a.html", run, "--plots", plots)
    drawn = words(picture_in(text, "attention-mean"))
    assert {"weight of each moment, %", "source: left", "target: right", "even"} <= set(drawn)
    for role, domain in (("source", "left"), ("target", "right")):
        rows = words(picture_in(text, f"attention-{role}"))
        assert {f"{domain}_0_0", f"{domain}_2_3"} <= set(rows)
        assert (plots / f"attention-{role}.png").exists() and (
            plots / "attention-mean.svg"
        ).exists()
    if method == "ma2l-td":
        curve = words(picture_in(text, "metric-6-level_weights"))
        assert {"level weights", "level 1, 9 slots", "level 3, 1 slot"} <= set(curve)

    record["domains"][0]["mean"].append(0.5)
    (run / "attention.json").write_text(json.dumps(record))
    damaged = cli("report", run, "--out", tmp_path / "b.html")
    assert damaged.exit_code == 1 and "attention.json is damaged" in damaged.output
    assert "weights of" in damaged.output


def test_where_nothing_weighs_there_is_no_picture(cli, problem: Path, tmp_path: Path) -> None:
    run = train(problem, "run", "ma2l-td", "--levels", 3, "--preset", "light")
    assert not (run / "attention.json").exists()
    text, _, _ = write(cli, tmp_path / "a.html", run)
    assert "Which moments of a video weigh" not in text
