"""Frame sampling, batch streams, schedules and losses against plain loops."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch

from adapt.bank import FeatureBank, sample
from adapt.data import SourceBatch, TargetBatch, class_balanced, shuffled
from adapt.losses import source_loss, target_entropy
from adapt.sampling import centred, jittered
from adapt.schedule import annealed, generator, ramp

CASES = [(10, 4), (1, 4), (3, 7), (53, 53), (1000, 53), (52, 53), (2, 1), (5, 5)]


def segment(i: int, count: int, frames: int) -> range:
    """Frames of segment i; of a video with fewer frames than segments the one that its centre is in."""
    if count < frames:
        centre = math.floor((i + 0.5) * count / frames)
        return range(centre, centre + 1)
    return range(i * count // frames, (i + 1) * count // frames)


def test_example_of_the_docstring() -> None:
    assert centred(torch.tensor([10]), 4).tolist() == [[1, 3, 6, 8]]


@pytest.mark.parametrize(("count", "frames"), CASES)
def test_centred_is_floor_of_segment_middle(count: int, frames: int) -> None:
    expected = [math.floor((i + 0.5) * count / frames) for i in range(frames)]
    assert centred(torch.tensor([count, 9]), frames)[0].tolist() == expected
    assert expected == sorted(expected)


@pytest.mark.parametrize(("count", "frames"), CASES)
def test_jittered_reaches_every_frame_of_its_segment_and_no_other(count: int, frames: int) -> None:
    random = generator(0, "test")
    draws = jittered(torch.full((2000,), count), frames, random)
    for i in range(min(frames, 8)):
        seen = Counter(draws[:, i].tolist())
        allowed = segment(i, count, frames)
        if len(allowed) < 50:
            assert sorted(seen) == list(allowed)
            spread = [n / 2000 * len(allowed) for n in seen.values()]
            assert max(spread) < 2 and min(spread) > 0.4  # uniform, 5 sigma and more
        assert set(seen) <= set(allowed)
    assert (draws.diff(dim=1) >= 0).all()


def test_mixed_lengths_and_one_frame_videos() -> None:
    features = [np.full((n, 3), v, dtype=np.float16) for v, n in enumerate((1, 2, 30))]
    features[2][:, 0] = np.arange(30)
    bank = FeatureBank(features, torch.device("cpu"))
    for random in (None, generator(0, "test")):
        videos_B = torch.tensor([2, 0, 1])
        x_BTD = bank.gather(videos_B, sample(bank, videos_B, 9, random))
        assert x_BTD.shape == (3, 9, 3) and x_BTD.dtype == torch.float32
        assert (x_BTD[1] == 0).all() and (x_BTD[2] == 1).all()
        order = x_BTD[0, :, 0].tolist()
        assert order == sorted(order)
        assert all(f in segment(i, 30, 9) for i, f in enumerate(order))


@pytest.mark.parametrize("frames", [5, 9, 53])
def test_short_videos_train_on_the_frames_that_are_evaluated(frames: int) -> None:
    counts = list(range(1, frames)) + [frames, 4 * frames]
    bank = FeatureBank([np.zeros((n, 1), np.float16) for n in counts], torch.device("cpu"))
    videos_B = torch.arange(len(counts))
    trained, evaluated = (
        sample(bank, videos_B, frames, random) for random in (generator(0, "test"), None)
    )
    assert torch.equal(trained[:-1], evaluated[:-1])
    assert not torch.equal(trained[-1], evaluated[-1])


def test_same_seed_same_frames_other_name_other_frames() -> None:
    counts = torch.full((8,), 400)
    first, again = (jittered(counts, 23, generator(3, "a")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, jittered(counts, 23, generator(3, "b")))
    assert not torch.equal(first, jittered(counts, 23, generator(4, "a")))


def test_shuffled_passes() -> None:
    stream = shuffled(10, generator(0, "test"))
    passes = torch.cat([stream.take(4) for _ in range(10)]).view(4, 10).tolist()
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]


def test_batch_larger_than_the_domain() -> None:
    batch = shuffled(3, generator(0, "test")).take(8)
    assert sorted(Counter(batch.tolist()).values()) == [2, 3, 3]


def test_class_balanced_passes() -> None:
    labels_V = torch.tensor([0] * 7 + [2] * 3 + [5] * 4)  # labels need not be 0..N-1 here
    stream = class_balanced(labels_V, generator(0, "test"))
    passes = [stream.take(9) for _ in range(60)]
    for one in passes:
        assert Counter(labels_V[one].tolist()) == {0: 3, 2: 3, 5: 3}
        assert len(set(one.tolist())) == 9
    assert len(set(torch.cat(passes).tolist())) == 14  # every video comes up in some pass


def test_class_balanced_with_a_single_video() -> None:
    labels_V = torch.tensor([0, 0, 0, 1])
    stream = class_balanced(labels_V, generator(0, "test"))
    assert Counter(labels_V[stream.take(4)].tolist()) == {0: 2, 1: 2}


@pytest.mark.parametrize("size", [1, 4, 7, 23])
def test_a_stream_goes_on_from_its_state(size: int) -> None:
    streams = [class_balanced(torch.tensor([0, 0, 0, 1, 1]), generator(0, "t")) for _ in range(2)]
    streams[0].take(6)
    streams[1].load_state_dict(streams[0].state_dict())
    assert torch.equal(streams[0].take(size), streams[1].take(size))


def test_the_target_batch_has_no_labels() -> None:
    assert [f.name for f in dataclasses.fields(TargetBatch)] == ["features_BTD"]
    assert [f.name for f in dataclasses.fields(SourceBatch)] == ["features_BTD", "labels_B"]


def test_class_losses() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 100.0]], dtype=torch.float64)
    cross, entropies = 0.0, []
    for row, label in zip(logits.tolist(), (1, 2)):
        total = sum(math.exp(z) for z in row)
        cross -= math.log(math.exp(row[label]) / total) / 2
        p = [math.exp(z) / total for z in row]
        entropies.append(-sum(x * math.log(x) for x in p if x > 0))
    assert source_loss(logits, torch.tensor([1, 2])).item() == pytest.approx(cross, rel=1e-12)
    mean = sum(entropies) / 2
    assert target_entropy(logits, "sum").item() == pytest.approx(mean, rel=1e-12)
    assert target_entropy(logits, "mean").item() == pytest.approx(mean / 3, rel=1e-12)


def test_schedules() -> None:
    assert ramp(0) == 0 and annealed(0) == 1
    assert ramp(0.3) == pytest.approx((1 - math.exp(-3)) / (1 + math.exp(-3)))
    assert annealed(0.7) == pytest.approx(1 / 8**0.75)
