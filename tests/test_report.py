"""`report`: what stands on the page against the runs' own files, hostile names, and that it loads nothing.

Above 250 lines: one page, whose every part is compared with numbers that are computed again here.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Road, edited_json, make_problem, slow, toy_arguments
from PIL import Image
from scipy.stats import binomtest
from test_unlabelled import label, take_labels_away

from adapt import checkpoint
from adapt.report_tables import comparison
from adapt.review import review
from adapt.runs import RunFolder
from adapt.subject import read_subject
from extract.synthetic import DOMAINS
from store.manifest import read_manifest, write_manifest
from store.read import FeatureStore

NAMES = (
    '<script>alert("1")</script>',
    "a\"onload='b' & $x^2$ $y$",
    "Прыжок 跳躍",
    "n" * 120,
    "&amp;",
    "]]> <!--",
    "six",
    "seven",
)
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tables of a page by their titles, and everything that a browser might load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self._title = ""
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "h2":
            self._title = ""
        elif tag == "table":
            self.tables[self._title] = []
        elif tag == "tr":
            self.tables[self._title].append([])
        elif tag in ("td", "th"):
            self.tables[self._title][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "h2" in self._open:
            self._title += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._title][-1][-1] += data

    def rows(self, title: str, heads: int = 1) -> list[list[str]]:
        return self.tables[title][heads:]


def train(root: Path, run: str, method: str, *more: object) -> Path:
    from cli import main

    arguments = toy_arguments(root, run, "--method", method, "--score-every", 1, *more)
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return root / run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `infomax` and `source`, on the toy problem; for reading."""
    root = tmp_path_factory.mktemp("toy")
    make_problem(root)
    train(root, "infomax", "infomax")
    train(root, "source", "source-only")
    return root


def write(cli, out: Path, *arguments: object) -> tuple[str, Page, str]:
    """The page, its parts, and what the command printed."""
    result = cli("report", *arguments, "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    return text, Page(text), result.output


def predictions(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shares(run: Path) -> dict[str, float]:
    """Accuracy of each class, in percent."""
    right: dict[str, list[bool]] = {}
    for row in predictions(run):
        right.setdefault(row["class"], []).append(row["class"] == row["predicted"])
    return {name: 100 * sum(values) / len(values) for name, values in right.items()}


def svg(text: str, name: str) -> ET.Element:
    """The inlined picture whose ids begin so."""
    [found] = [s for s in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if f'id="{name}-' in s]
    return ET.fromstring(found)


def words(picture: ET.Element) -> list[str]:
    return [str(e.text) for e in picture.iter() if e.tag.endswith("text")]


def test_the_page_says_what_the_run_recorded(cli, toy: Path, tmp_path: Path) -> None:
    run = toy / "infomax"
    text, page, output = write(cli, tmp_path / "a.html", run)
    done, rows = json.loads((run / "done.json").read_text()), predictions(run)
    result = done["target_eval"]
    large = f"{result['overall']:.2f} % (95 % interval {result['low']:.1f} to {result['high']:.1f})"
    assert large in page.texts and f"{result['class_mean']:.2f} %" in page.texts
    assert f"{done['epoch']}, chosen by: last epoch" in page.texts
    assert "infomax (shared), left -> right" in page.texts and "Note:" not in output

    counts = Counter((row["class"], row["predicted"]) for row in rows)
    drawn = [word for word in words(svg(text, "confusion")) if word.isdigit()]
    assert sorted(drawn) == sorted(str(count) for count in counts.values())

    expected = shares(run)
    found = {row[0]: row for row in page.rows("Accuracy per class")}
    assert {name: float(row[2]) for name, row in found.items()} == pytest.approx(expected, abs=0.05)
    for name, row in found.items():
        named = [r["class"] == name for r in rows if r["predicted"] == name]
        assert row[3] == str(len(named))
        assert row[4] == (f"{100 * np.mean(named):.1f}" if named else "-")

    wrong = [row for row in rows if row["class"] != row["predicted"]]
    wrong.sort(key=lambda row: -float(row["probability"]))
    listed = page.rows("The most confident mistakes") if wrong else []
    assert [row[0] for row in listed] == [row["video"] for row in wrong[:20]]
    for row, cells in zip(wrong, listed):
        assert cells[1:3] == [row["class"], row["predicted"]]
        assert float(cells[3]) == pytest.approx(float(row["probability"]))

    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["scores"]
    at_end = {row[0]: row[2] for row in page.rows("Scores", 2)}
    assert float(at_end["im"]) == pytest.approx(last["im"], rel=1e-3)
    for name in ("tsne-before", "tsne-after", "accuracy", "score-snd", "class-accuracy"):
        svg(text, name)
    assert any("epoch (dotted: chosen, 3)" in words(svg(text, n)) for n in ("metric-1-source",))
    settings = html.unescape(text).split("<summary>Config</summary><pre>")[1].split("</pre>")[0]
    assert json.loads(settings) == json.loads((run / "config.json").read_text())["config"]


def test_several_runs_are_compared_on_the_same_videos(cli, toy: Path, tmp_path: Path) -> None:
    a, b = toy / "infomax", toy / "source"
    text, page, _ = write(cli, tmp_path / "a.html", a, b, a)
    right = [{r["video"]: r["class"] == r["predicted"] for r in predictions(run)} for run in (a, b)]
    only_a = sum(right[0][v] and not right[1][v] for v in right[0])
    only_b = sum(right[1][v] and not right[0][v] for v in right[0])
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    first, second, third = page.rows("The runs compared", 2)
    assert first[0] == "1  infomax" and set(first[3:8]) == {""}
    assert float(second[3]) == pytest.approx(100 * (only_a - only_b) / len(right[0]), abs=0.006)
    shown = second[5]
    assert shown == ("< 0.001" if p < 0.001 else f"{p:.3f}")
    corrected = min(1.0, 2 * p)  # Holm: the smaller of two p-values counts twice
    assert second[6].rstrip("*") == ("< 0.001" if corrected < 0.001 else f"{corrected:.3f}")
    assert second[6].endswith("*") == (corrected < 0.05)
    assert third[3:8] == ["+0.00", "+0.0 to +0.0", "1.000", "1.000", "100.0 %"]
    gains = {name: share - shares(b)[name] for name, share in shares(a).items()}
    found = {row[0]: float(row[3]) for row in page.rows("Accuracy per class")}
    assert found == pytest.approx(gains, abs=0.06)
    svg(text, "class-gain-run-2")
    assert any("run 2: " in t and "method: infomax or source-only" in t for t in page.texts)
    assert any("run 3: nothing but the seed" in t for t in page.texts)


def test_what_was_trained_along_stands_beside_the_result(
    cli, problem: Path, tmp_path: Path
) -> None:
    run = train(problem, "run", "infomax", "--seed", 2, "--baselines")
    text, page, _ = write(cli, tmp_path / "a.html", run, run)
    table = {row[0]: row for row in page.rows("Beside the result", 2)}
    rows = json.loads((run / "baselines.json").read_text())["rows"]
    assert list(table) == [
        *("this run", "source only", "source only, target's statistics"),
        *("always the most frequent class", "guessing evenly"),
    ]
    truth = {row["video"]: row["class"] for row in predictions(run)}
    ours = {row["video"]: row["class"] == row["predicted"] for row in predictions(run)}
    ps = []
    for name, row in rows.items():
        right = {video: row["predicted"][video] == truth[video] for video in truth}
        only, other = (sum(a[v] and not b[v] for v in a) for a, b in ((ours, right), (right, ours)))
        assert table[name][1].startswith(f"{100 * np.mean(list(right.values())):.2f} (")
        assert float(table[name][3]) == pytest.approx(100 * (only - other) / 12, abs=0.006)
        ps.append(binomtest(only, only + other).pvalue if only + other else 1.0)
        assert table[name][5] == ("< 0.001" if ps[-1] < 0.001 else f"{ps[-1]:.3f}")
    for p, name in zip(ps, rows):
        holm = max(min(1.0, (2 - i) * q) for i, q in enumerate(sorted(ps)) if q <= p)
        assert table[name][6].rstrip("*") == ("< 0.001" if holm < 0.001 else f"{holm:.3f}")
    assert table["guessing evenly"][1] == f"{100 / 3:.2f}"

    base = {c: [] for c in ("c0", "c1", "c2")}
    for video, name in truth.items():
        base[name].append(rows["source only"]["predicted"][video] == name)
    found = {row[0]: row for row in page.rows("Accuracy per class")}
    for name, row in found.items():
        assert float(row[3]) == 0, "the gain over the run itself"
        gain = shares(run)[name] - 100 * np.mean(base[name])
        assert float(row[4]) == pytest.approx(gain, abs=0.06)
    assert "gain over source only, points" in words(svg(text, "class-gain-source-only"))

    with edited_json(run / "baselines.json") as record:
        record["rows"]["source only"]["predicted"]["right_0_0"] = "elsewhere"
    damaged = cli("report", run, "--out", tmp_path / "b.html")
    assert damaged.exit_code == 1 and "baselines.json does not fit the run" in damaged.output


def test_a_run_that_is_named_as_the_current_folder_has_its_name(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy / "infomax")
    runs = [read_subject(Path(name)) for name in (".", "../source")]
    assert [row[0] for row in comparison(runs).rows] == ["1  infomax", "2  source"]


def test_runs_on_another_target_are_not_tested_whatever_the_ids(
    cli, toy: Path, tmp_path: Path
) -> None:
    """Both ways of a benchmark whose domains have equal ids: its runs predicted different videos."""
    other = Path(shutil.copytree(toy / "source", tmp_path / "other"))
    with edited_json(other / "config.json") as record:
        record["config"] |= {"source": "right", "target": "left"}
    _, page, _ = write(cli, tmp_path / "a.html", toy / "infomax", other)
    assert page.rows("The runs compared", 2)[1][3:8] == ["-"] * 5
    assert "Run 2 is " not in (tmp_path / "a.html").read_text()  # no gains per class over it
    _, page, _ = write(cli, tmp_path / "b.html", toy / "infomax", other, toy / "source")
    assert page.rows("The runs compared", 2)[2][3] != "-"
    assert "Run 3 is source-only" in (tmp_path / "b.html").read_text()


def test_runs_on_other_videos_are_listed_and_not_tested(cli, toy: Path, tmp_path: Path) -> None:
    other = shutil.copytree(toy / "source", tmp_path / "other")
    table = (other / "predictions.csv").read_text().replace("right_", "elsewhere_")
    (other / "predictions.csv").write_text(table)
    _, page, _ = write(cli, tmp_path / "a.html", toy / "infomax", other)
    assert page.rows("The runs compared", 2)[1][3:8] == ["-"] * 5


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on classes with bad names, and metrics that no method would write."""
    root = tmp_path_factory.mktemp("hostile")
    make_problem(root, classes=len(NAMES))
    for domain in ("left", "right"):
        path = root / "manifests" / "toy" / f"{domain}.csv"
        rows = read_manifest(path)
        write_manifest(path, [dataclasses.replace(r, class_name=NAMES[r.label]) for r in rows])
    run = train(root, 'r"><b>un', "infomax")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line |= {"../../<i>": 1.0 + number, "level_weights": [0.1, 0.9], "nan": float("nan")}
        line["words"] = "none"
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_names_are_text_and_nothing_is_loaded(cli, hostile: Path, tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    before = dict(matplotlib.rcParams)
    text, page, _ = write(cli, tmp_path / "a.html", hostile, hostile, "--plots", plots)
    assert dict(matplotlib.rcParams) == before, "the style of the report has leaked"
    assert page.tags["script"] == page.tags["b"] == page.tags["i"] == page.tags["link"] == 0
    assert not {name for name, _ in page.attributes if name.startswith("on")}
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert value.startswith(("#", "data:image/jpeg;base64,")), (name, value)
        assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", value)), value
    assert "http" not in text and "@import" not in text
    assert {row[0] for row in page.rows("Accuracy per class")} == set(NAMES)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids)), "two pictures share an id"
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text))
    assert used and used <= set(ids)
    drawn = " ".join(words(svg(text, "confusion")))
    assert "a\"onload='b' & $x^2$ $y$ (4)" in drawn and "Прыжок 跳躍 (4)" in drawn

    files = {path.name for path in plots.iterdir()}
    assert {path.parent for path in tmp_path.rglob("*.svg")} == {plots}
    stems = {Path(name).stem for name in files}
    assert files == {f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png")}
    assert len(stems) == len(re.findall("<svg", text)) and "metric-4-_______i_" in stems
    for stem in stems:
        ET.parse(plots / f"{stem}.svg")
        with Image.open(plots / f"{stem}.png") as image:
            image.load()
            assert min(image.size) > 100
    assert {"1", "2"} <= set(words(svg(text, "metric-5-level_weights"))), "one line per level"


def test_without_features_the_page_is_made_and_says_what_it_lacks(
    cli, toy: Path, tmp_path: Path
) -> None:
    run = toy / "infomax"
    gone = ("--features", tmp_path / "nowhere")
    text, page, output = write(cli, tmp_path / "a.html", run, *gone)
    whole, *_ = write(cli, tmp_path / "b.html", run)
    assert "tsne-after-" in whole and "tsne-" not in text
    assert words(svg(text, "confusion")) == words(svg(whole, "confusion"))
    assert "Notes" in page.texts
    [note] = [t for t in page.texts if "are not there any more" in t]
    assert note.startswith("The videos as points") and "--features and --manifests" in note
    assert "Note: The videos as points" in output
    assert "Beyond accuracy" not in page.tables

    shutil.copytree(toy / "features" / "right", tmp_path / "half" / "right")
    text, page, _ = write(cli, tmp_path / "c.html", run, "--features", tmp_path / "half")
    assert any(t.startswith("Source videos in the pictures of features: ") for t in page.texts)
    assert "source: left" not in words(svg(text, "tsne-after"))
    assert "target: right" in words(svg(text, "tsne-after"))


def test_beyond_accuracy_is_of_the_probabilities(cli, toy: Path, tmp_path: Path) -> None:
    _, page, _ = write(cli, tmp_path / "a.html", toy / "infomax")
    rows = dict(page.rows("Beyond accuracy"))
    right = [float(row["probability"]) for row in predictions(toy / "infomax")]
    assert float(rows["mean of the highest probability"]) == pytest.approx(
        100 * np.mean(right), abs=0.02
    )
    overall = json.loads((toy / "infomax" / "done.json").read_text())["target_eval"]["overall"]
    assert float(rows["class among the 1 most probable"]) == pytest.approx(overall, abs=0.006)


def test_a_target_without_labels(cli, problem: Path, tmp_path: Path) -> None:
    classes = take_labels_away(problem)
    run = train(problem, "run", "infomax", "--baselines")
    text, page, _ = write(cli, tmp_path / "a.html", run)
    rows = json.loads((run / "baselines.json").read_text())["rows"]
    scores = {row[0]: row[1:] for row in page.rows("Beside the result")}
    assert scores["source only"] == [f"{x:.4f}" for x in rows["source only"]["scores"].values()]
    assert "no labels, so no accuracy: 36 videos of the target" in page.texts
    counts = Counter(row["predicted"] for row in predictions(run))
    assert {row[0]: int(row[1]) for row in page.rows("Predicted classes") if int(row[1])} == counts
    ordered = sorted(predictions(run), key=lambda row: float(row["probability"]))
    listed = [row[0] for row in page.rows("The least certain videos")]
    assert listed == [row["video"] for row in ordered[:20]]
    assert "Confusion matrix" not in page.texts and "oracle" not in text
    assert "im" in {row[0] for row in page.rows("Scores", 2)}

    label(cli, problem, classes)
    _, page, output = write(cli, tmp_path / "b.html", run)
    right = [row["predicted"] == classes[row["video"]] for row in predictions(run)]
    assert any(t.startswith(f"{100 * np.mean(right):.2f} % (95 %") for t in page.texts)
    base = [rows["source only"]["predicted"][video] == name for video, name in classes.items()]
    beside = {row[0]: row[1] for row in page.rows("Beside the result", 2)}
    assert beside["source only"].startswith(f"{100 * np.mean(base):.2f} (")
    digest = hashlib.sha256((problem / "manifests" / "toy" / "right.csv").read_bytes()).hexdigest()
    assert f"the labels that 36 of 36 videos have in {problem}" in output
    assert f"(sha256 {digest[:16]}); the run ended with none, so that it recorded no" in output
    assert {row[0] for row in page.rows("Accuracy per class")} == {"c0", "c1", "c2"}


def test_what_the_features_say_otherwise_is_said(cli, toy: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy / "infomax", tmp_path / "run"))
    rows = predictions(run)
    rows[0]["predicted"] = next(f"c{i}" for i in range(3) if f"c{i}" != rows[0]["predicted"])
    done = json.loads((run / "done.json").read_text())  # as if the run had ended so
    done["target_eval"]["overall"] = 100 * np.mean([r["class"] == r["predicted"] for r in rows])
    done["predicted"] = Counter(row["predicted"] for row in rows)
    (run / "done.json").write_text(json.dumps(done))
    with (run / "predictions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    _, _, output = write(cli, tmp_path / "a.html", run)
    assert (
        f"1 of 12 videos is predicted otherwise now than the run recorded (first: {rows[0]['video']})"
        in (output)
    )


def test_a_run_of_an_older_version_has_its_classes_in_the_order_of_the_model(
    cli, tmp_path: Path
) -> None:
    """Its done.json does not count the classes; here their order is not that of the alphabet."""
    make_problem(tmp_path)
    for domain in ("left", "right"):
        path = tmp_path / "manifests" / "toy" / f"{domain}.csv"
        rows = [dataclasses.replace(r, class_name="zyx"[r.label]) for r in read_manifest(path)]
        write_manifest(path, rows)
    run = train(tmp_path, "run", "infomax")
    done = json.loads((run / "done.json").read_text())
    assert list(done.pop("predicted")) == ["z", "y", "x"]
    (run / "done.json").write_text(json.dumps(done))
    _, page, output = write(cli, tmp_path / "a.html", run)
    assert "Note:" not in output
    assert [row[0] for row in page.rows("Accuracy per class")] == ["z", "y", "x"]
    top = float(dict(page.rows("Beyond accuracy"))["class among the 1 most probable"])
    assert top == pytest.approx(done["target_eval"]["overall"], abs=0.006)

    table = (run / "predictions.csv").read_text().replace(",z,", ",other,")
    (run / "predictions.csv").write_text(table)
    damaged = cli("report", run, "--out", tmp_path / "b.html")
    assert damaged.exit_code == 1 and "names 1 class that the run's model" in damaged.output


def test_nothing_is_replaced_and_what_is_no_run_is_refused(cli, toy: Path, tmp_path: Path) -> None:
    run, out = toy / "infomax", tmp_path / "a.html"
    out.write_text("mine")
    refused = cli("report", run, "--out", out)
    assert refused.exit_code == 2 and "a.html exists, and is not replaced" in refused.output
    assert out.read_text() == "mine"
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.png").touch()
    refused = cli("report", run, "--out", tmp_path / "b.html", "--plots", tmp_path / "plots")
    assert refused.exit_code == 2 and "plots is not empty" in refused.output
    seeds = cli("report", toy, "--out", tmp_path / "b.html")
    assert seeds.exit_code == 1 and "holds 2 runs that are not seeds of" in seeds.output
    assert f"(first: {run})" in seeds.output
    half = Path(shutil.copytree(run, tmp_path / "half"))
    (half / "done.json").unlink()
    unfinished = cli("report", half, "--out", tmp_path / "b.html")
    assert unfinished.exit_code == 1 and "is unfinished: 3 of 3 epochs" in unfinished.output
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    (broken / "metrics.jsonl").write_text("{}\n")
    damaged = cli("report", broken, "--out", tmp_path / "b.html")
    assert damaged.exit_code == 1 and "metrics.jsonl is damaged" in damaged.output
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(
    ("method", "more", "lacks"),
    [
        ("infomax", (), ""),
        ("infomax", ("--input-coral", "target-to-source"), ""),
        ("infomax", ("--input-coral", "source-to-target"), "a checkpoint does not hold that map"),
        slow("abg", (), "made for the target's videos alone"),
        ("coral", (), "no layer called classifier"),
    ],
)
def test_what_the_classifier_sees(problem: Path, method: str, more: tuple, lacks: str) -> None:
    run = RunFolder(train(problem, "run", method, *more))
    found = review(run, torch.device("cpu"), None, None)
    assert [row["predicted"] for row in predictions(run.path)] == [
        f"c{i}" for i in found.P_VN.argmax(axis=1)
    ]
    means = []
    for domain, split in (("left", "train"), ("right", "eval")):
        [folder] = (problem / "features" / domain).iterdir()
        with FeatureStore(folder) as store:
            rows = read_manifest(problem / "manifests" / "toy" / f"{domain}.csv")
            means += [store.read(r.id).astype(float).mean(0) for r in rows if r.split == split]
    np.testing.assert_allclose(found.before.features_VC, means)
    assert found.before.source == 24 and found.before.of == (24, 12)
    assert [lacks in reason for reason in found.left_out] == [True] * bool(lacks)
    if method == "coral":
        assert found.after is None
        return
    assert found.after is not None
    model = checkpoint.load_model(run, run.read()[0]).model
    inner = model.model if more and more[1] == "target-to-source" else model
    seen_VC = torch.from_numpy(found.after.features_VC[found.after.source :]).float()
    with torch.no_grad():
        P_VN = inner.classifier(seen_VC).softmax(dim=1)
    np.testing.assert_allclose(P_VN.numpy(), found.P_VN, atol=1e-4)
    assert found.after.source == (0 if lacks else 24)


def test_source_videos_are_seen_with_their_own_statistics(tmp_path: Path) -> None:
    """A constant shift between the domains is what batch norm by each domain's statistics takes away."""
    make_problem(tmp_path, shift=6)
    run = RunFolder(train(tmp_path, "run", "infomax"))
    assert run.read()[0].statistics == "target"
    after = review(run, torch.device("cpu"), None, None).after
    assert after is not None
    of_target_C = after.features_VC[after.source :].mean(axis=0)
    apart = np.linalg.norm(after.features_VC[: after.source].mean(axis=0) - of_target_C)
    [folder] = (tmp_path / "features" / "left").iterdir()
    model = checkpoint.load_model(run, run.read()[0]).model
    seen: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with FeatureStore(folder) as store, torch.no_grad():
        for video in store.records:
            model(torch.from_numpy(store.read(video)).float()[None])
    with_targets = np.linalg.norm(torch.cat(seen).numpy().mean(axis=0) - of_target_C)
    assert apart < 0.2 * with_targets, (apart, with_targets)


@pytest.mark.slow
def test_middle_frames_of_the_listed_videos_are_shown(cli, road: Road, tmp_path: Path) -> None:
    target = road.root / DOMAINS[1]
    text, page, output = write(cli, tmp_path / "a.html", road.run, "--videos", target)
    wrong = [r["video"] for r in predictions(road.run) if r["class"] != r["predicted"]]
    assert page.tags["img"] == min(20, len(wrong)) > 0 and "Frames of" not in output
    for video, data in re.findall(
        r'alt="middle frame of ([^"]*)" src="data:image/jpeg;base64,([^"]*)"', text
    ):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            shown = np.asarray(image.convert("RGB")).astype(float)
        with av.open(str(target / f"{video}.mp4")) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        middle = frames[len(frames) // 2]
        side = min(middle.shape[:2])
        left = (middle.shape[1] - side) // 2
        square = Image.fromarray(middle[:side, left : left + side]).resize(shown.shape[:2])
        assert np.abs(shown - np.asarray(square)).mean() < 8
    (tmp_path / "none").mkdir()
    text, page, output = write(cli, tmp_path / "b.html", road.run, "--videos", tmp_path / "none")
    assert page.tags["img"] == 0 and "Frames of" in output and "no video of that name" in output


@pytest.mark.slow
def test_no_width_scrolls_the_page_sideways(cli, toy: Path, hostile: Path, tmp_path: Path) -> None:
    """A real browser shows the page in frames as wide as a phone, a tablet and a screen."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), "")
    if not browser:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    for number, run in enumerate((toy / "infomax", hostile)):
        text, *_ = write(cli, tmp_path / f"{number}.html", run, toy / "source")
        widths = (360, 800, 1400)
        frames = "".join(
            f'<iframe width="{w}" height="800" srcdoc="{html.escape(text)}"></iframe>'
            for w in widths
        )
        measure = (
            "onload = () => { const all = [...document.querySelectorAll('iframe')]; document.title = "
            "all.map(f => f.contentDocument.documentElement.scrollWidth + '/' + f.clientWidth).join(' ')"
            " + '|' + [...all[0].contentDocument.querySelectorAll('.plot')]"
            ".filter(p => p.scrollWidth > p.clientWidth).length }"
        )
        outer = tmp_path / f"outer{number}.html"
        outer.write_text(f"<title>-</title><script>{measure}</script>{frames}", encoding="utf-8")
        shown = subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *(f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        [title] = re.findall("<title>(.*?)</title>", shown)[:1]
        measured, cut = title.split("|")
        pairs = [tuple(map(int, pair.split("/"))) for pair in measured.split()]
        assert [inner for _, inner in pairs] == list(widths)
        assert all(page_width <= inner for page_width, inner in pairs), pairs
        if number == 0:  # three classes: every picture can be seen whole, on a phone too
            assert cut == "0"
