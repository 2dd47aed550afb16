"""Numbers in messages: noun and verb agree with them."""

from __future__ import annotations

import pytest

from store.errors import counted


@pytest.mark.parametrize(
    ("given", "one", "several"),
    [
        (("video",), "1 video", "1,200 videos"),
        (("video", "has no features"), "1 video has no features", "1,200 videos have no features"),
        (("hmdb train video", "is"), "1 hmdb train video is", "1,200 hmdb train videos are"),
        (("class", "contradicts"), "1 class contradicts", "1,200 classes contradict"),
        (("batch", "does"), "1 batch does", "1,200 batches do"),
        (("epoch",), "1 epoch", "1,200 epochs"),
        (("copy", "was"), "1 copy was", "1,200 copies were"),
        (("time series", "could"), "1 time series could", "1,200 time series could"),
    ],
)
def test_a_noun_and_its_verb_agree_with_the_number(
    given: tuple[str, ...], one: str, several: str
) -> None:
    assert (counted(1, *given), counted(1200, *given)) == (one, several)
    assert counted(0, *given) == several.replace("1,200", "0")


def test_of_several_the_noun_follows_the_whole_and_the_verb_the_part() -> None:
    assert counted(1, "video", "has", of=840) == "1 of 840 videos has"
    assert counted(3, "video", "has", of=840) == "3 of 840 videos have"
    assert counted(1, "video", "has", of=1) == "1 of 1 video has"
    assert counted(0, "video", of=1) == "0 of 1 video"
    assert counted(2, "run", "is", of=3, where="in a") == "2 of 3 runs in a are"
