"""Per-class figures, confusions, next guesses and calibration against counts by hand."""

from __future__ import annotations

import csv
import io
from collections import Counter

import numpy as np
import pytest
from conftest import toy_arguments

from adapt.details import calibration_error, details

CLASSES = ["run", "walk", "jump", "sit"]
P = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],  # run, right
        [0.2, 0.5, 0.2, 0.1],  # run, taken for walk
        [0.1, 0.6, 0.2, 0.1],  # run, taken for walk
        [0.1, 0.8, 0.1, 0.0],  # walk, right
        [0.4, 0.3, 0.2, 0.1],  # jump, taken for run; third guess
    ]
)
LABELS = np.array([0, 0, 0, 1, 2])


def test_classes_and_confusions() -> None:
    found = details(P, LABELS, CLASSES)
    assert found.confusion_NN.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    run, walk, jump, sit = found.classes
    assert (run.videos, run.predicted, run.mistaken_for) == (3, 2, "walk")
    assert run.recall == pytest.approx(100 / 3) and run.precision == pytest.approx(50)
    assert (walk.recall, walk.mistaken_for) == (100, None)
    assert walk.precision == pytest.approx(100 / 3)
    assert (jump.recall, jump.precision, jump.mistaken_for) == (0, None, "run")
    assert (sit.videos, sit.recall, sit.precision) == (0, None, None)


def test_next_guesses_chance_and_majority() -> None:
    found = details(P, LABELS, CLASSES)
    assert found.top == {1: pytest.approx(40), 3: pytest.approx(100)}
    assert (found.chance, found.majority) == (25, 60)
    assert found.mean_confidence == pytest.approx(100 * (0.7 + 0.5 + 0.6 + 0.8 + 0.4) / 5)


def test_equal_probabilities_are_no_right_guesses() -> None:
    """A network that is quite sure gives all other classes 0; one that learned nothing, all the same."""
    six = [*CLASSES, "dive", "climb"]
    labels = np.arange(6)
    sure = details(np.eye(6)[np.full(6, 5)], labels, six)  # the last class for every video
    assert sure.top == {1: pytest.approx(100 / 6), 3: pytest.approx(50), 5: pytest.approx(500 / 6)}
    even = details(np.full((6, 6), 1 / 6), labels, six)
    assert even.top == {1: pytest.approx(100 / 6), 3: pytest.approx(50), 5: pytest.approx(500 / 6)}


def test_calibration_error_in_a_plain_loop() -> None:
    draws = np.random.default_rng(0)
    P_VN, labels = draws.dirichlet([0.5] * 4, size=200), draws.integers(0, 4, size=200)
    expected = 0.0
    for b in range(15):
        inside = [v for v in range(200) if b / 15 < max(P_VN[v]) <= (b + 1) / 15]
        if inside:
            right = sum(int(np.argmax(P_VN[v])) == labels[v] for v in inside) / len(inside)
            mean = sum(max(P_VN[v]) for v in inside) / len(inside)
            expected += len(inside) / 200 * abs(right - mean)
    assert calibration_error(P_VN, labels) == pytest.approx(expected, rel=1e-12)
    sure = np.eye(4)[[0, 1, 2, 3]]
    assert calibration_error(sure, np.array([0, 1, 2, 3])) == 0
    assert calibration_error(sure, np.array([1, 2, 3, 0])) == 1


def test_evaluate_says_them(cli, problem) -> None:
    """The table and the matrix are those that predictions.csv gives when it is counted."""
    assert cli(*toy_arguments(problem, "run", "--method", "source-only")).exit_code == 0
    run, matrix = problem / "run", problem / "confusion.csv"
    shown = cli("evaluate", run, "--device", "cpu", "--confusion", matrix)
    assert shown.exit_code == 0, shown.output
    rows = list(csv.DictReader(io.StringIO((run / "predictions.csv").read_text())))
    pairs = Counter((row["class"], row["predicted"]) for row in rows)
    names = ["c0", "c1", "c2"]
    written = list(csv.reader(io.StringIO(matrix.read_text())))
    assert written[0] == ["class", *names]
    assert [row[1:] for row in written[1:]] == [[str(pairs[a, b]) for b in names] for a in names]
    assert "guessing evenly 33.33 %, always the most frequent class 33.33 %" in shown.output
    for name in names:
        right, named = pairs[name, name], sum(pairs[a, name] for a in names)
        precision = f"{100 * right / named:.1f}" if named else "-"
        assert f"  {name:<5}       4  {100 * right / 4:6.1f}  {precision:>9}" in shown.output
    again = cli("evaluate", run, "--device", "cpu", "--confusion", matrix)
    assert again.exit_code == 2 and "confusion.csv" in again.output


def test_evaluate_of_seeds_has_no_matrix(cli, problem) -> None:
    arguments = toy_arguments(problem, "run", "--method", "source-only", "--seeds", "0,1")
    assert cli(*arguments).exit_code == 0
    shown = cli("evaluate", problem / "run", "--device", "cpu")
    assert shown.output.count("calibration:") == 2 and "mostly taken for" not in shown.output
    refused = cli("evaluate", problem / "run", "--confusion", problem / "a.csv")
    assert refused.exit_code == 2 and "--confusion is of one run" in refused.output
