"""The rules by which an epoch is chosen, by the names that --select knows. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LAST = "last"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Take the epoch with the best value of one score (`adapt.scores`)."""

    what: str
    lowest: bool = False
    reads_target_labels: bool = False


RULES: Mapping[str, Rule] = {
    "source-val": Rule(what="accuracy on held-out source videos"),
    "im": Rule(what="information maximisation"),
    "entropy": Rule(what="entropy of the target's predictions", lowest=True),
    "snd": Rule(what="soft neighbourhood density"),
    "bnm": Rule(what="nuclear norm of the target's predictions"),
    "dev": Rule(what="deep embedded validation", lowest=True),
    "softmaxcorr": Rule(what="correlation of the classes' probabilities"),
    "ami": Rule(what="agreement of predictions and k-means clusters"),
    "oracle": Rule(
        what="accuracy on the target's evaluation videos, READS TARGET LABELS",
        reads_target_labels=True,
    ),
}
NEED_SOURCE_VIDEOS = ("source-val", "dev")
"""Rules whose scores are taken on the source's evaluation videos."""
NEED_FEATURES = ("ami", "dev")
"""Rules whose scores are taken on what the model's layer `classifier` sees."""
FEWEST = 5
"""With fewer held-out source videos the risk on the target is not estimated."""
CHOICES = (LAST, *RULES)


def selection_of(select: str) -> str:
    """How a rule is called where accuracies are printed."""
    if select == LAST:
        return "last epoch"
    told = "reads the target's labels" if RULES[select].reads_target_labels else "no target label"
    return f"epoch by {select} ({told})"


def best_epochs(metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The epoch that each rule takes, the first of equals; rules whose score was never computed are left out.

    Args:
        metrics: the lines of metrics.jsonl.
    """
    scored = [line for line in metrics if line.get("scores")]
    chosen = {}
    for name, rule in RULES.items():
        having = [line for line in scored if name in line["scores"]]
        if having:
            best = (min if rule.lowest else max)(having, key=lambda line: line["scores"][name])
            chosen[name] = best["epoch"]
    if metrics:
        chosen[LAST] = metrics[-1]["epoch"]
    return chosen


def by_rule(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each rule: its epoch, its score there, and the accuracies in % on the target's evaluation videos.

    The accuracies are only looked at, not chosen by, except by `oracle`.
    """
    scores = {line["epoch"]: line.get("scores", {}) for line in metrics}
    found: dict[str, dict[str, float]] = {}
    for name, epoch in best_epochs(metrics).items():
        there = scores[epoch]
        found[name] = {"epoch": epoch}
        if name in there:
            found[name]["score"] = there[name]
        if "oracle" in there:
            found[name] |= {"overall": there["oracle"], "class_mean": there["oracle-class-mean"]}
    return found
