"""The run folder: a run describes itself. Tensors are read and written by `adapt.checkpoint`.

config.json       the resolved options, which features the run was trained on, and whether the method or
                  the rule of the epoch reads labels of the target
environment.json  command, sha256 of the code, versions and machine; `earlier`: the same of other code that
                  trained a part of the run, if any did
metrics.jsonl     one line per epoch
progress.pt       what --resume goes on from, with progress.sha256; gone once the run is finished
baselines.json    source only, trained along (`adapt.baselines`)
attention.json    what each moment of a video weighs, if the method says so (`adapt.attention`)
tensorboard/      the same numbers for TensorBoard, with --tensorboard (`adapt.events`)
candidates/       models of the epochs that a rule would choose (`adapt.rules`)
checkpoint.pt     the method's model of the chosen epoch, all that prediction needs
predictions.csv   the target's evaluation videos, truth (blank where nobody knows it) and prediction
done.json         written last: the accuracies (null where the target has no labels), how many videos
                  got which class, the rule by which the epoch was chosen, and the sha256 of
                  checkpoint.pt

Above 250 lines because everything that stands in a run folder is written and read here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.accuracy import Accuracy
from adapt.config import AdaptConfig
from adapt.run_files import GO_ON, read_done, read_json, write_json
from store.errors import ConfigError, RunError, counted, printable
from store.files import explained, write_text
from store.format import config_differences
from store.locks import LOCK, folder_lock, remove_leftovers
from store.manifest import Video
from store.program import code_sha256

log = logging.getLogger(__name__)

ENVIRONMENT = "environment.json"


def run_folders(folder: Path) -> list[Path]:
    """The folders of all runs in a folder, at any depth; itself if it holds one, or if none is in it."""
    if (folder / "config.json").exists():
        return [folder]
    inner = [path.parent for path in folder.glob("**/config.json")]
    return sorted(inner, key=lambda path: [natural(part) for part in path.parts]) or [folder]


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts seed2 before seed10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Which features and manifests a run was trained on, beside the config that decides the numbers."""

    features: str
    manifests: str
    store: str
    """Folder name, the same for both domains."""
    feature_config_sha256: str
    allow_missing: bool
    videos: str
    """How many of each split, and a hash of which."""
    recipe: dict[str, Any] | None = None
    """How the features were made (`store.recipe`), None in runs of versions that did not record it."""
    features_sha256: str | None = None
    """Of the ids and checksums of all features that train or are evaluated; None likewise."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which epoch's model was kept, and which one every rule would have kept."""

    selection: str
    """The rule, as it is called where accuracies are printed."""
    epoch: int
    rules: Mapping[str, Mapping[str, float]]
    """Of each rule: its epoch, its score there, and the accuracies on the target's evaluation videos."""


class RunFolder:
    """One training run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it until `with` is left.

        Raises:
            RunError: another process is in it, or it cannot be made.
        """
        with explained(self.path, RunError, "Choose another --run."):
            self.path.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.path, wait=False) as mine:
            if not mine:
                raise RunError(
                    f"Another process is training in {self.path}. Let it finish, or stop it and go on "
                    "with --resume, or give another --run."
                )
            yield

    def begin(
        self,
        config: AdaptConfig,
        data: DataRecord,
        environment: Mapping[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        """Describe the run, or with `resume` make sure that it is the one that stands here.

        Raises:
            RunError: something else stands there, or a run with other options.
        """
        if not resume:
            self.refuse_used()
        remove_leftovers(self.path)
        if not self.is_empty():
            self._check_same(config, data)
            if self.is_finished():
                return
            environment = self._with_earlier(environment)
        record = {
            "reads_target_labels": config.reads_target_labels,
            "config": config.as_dict(),
            "data": dataclasses.asdict(data),
        }
        write_json(self.path, "config.json", record)
        write_json(self.path, ENVIRONMENT, environment)

    def is_of_this_code(self) -> bool:
        """Whether the code that trained here last is, to the byte, the one that runs now."""
        return bool(self._environment().get("code_sha256") == code_sha256())

    def _environment(self) -> dict[str, Any]:
        """What environment.json says; empty if there is none."""
        return read_json(self.path, ENVIRONMENT) if self.has(ENVIRONMENT) else {}

    def _with_earlier(self, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        """What environment.json is to say when a run goes on: of other code too, which is warned of."""
        before = self._environment()
        earlier = before.pop("earlier", [])
        if before and before.get("code_sha256") != environment["code_sha256"]:
            log.warning(
                "%s was begun by another state of this program: if the two do not train alike, its figures "
                "are of neither. environment.json keeps both.",
                printable(self.path),
            )
            earlier = [*earlier, before]
        return {**environment, "earlier": earlier} if earlier else environment

    def refuse_used(self) -> None:
        """Make sure that nothing stands here yet.

        Raises:
            RunError: something does.
        """
        if not self.is_empty():
            more = " To go on with the run in it: --resume." if self.has("config.json") else ""
            raise RunError(f"{self.path} is not empty. Give another --run, or remove it.{more}")

    def is_empty(self) -> bool:
        """Whether nothing stands in the folder but the lock and half written files of killed processes."""
        there = self.path.iterdir() if self.path.exists() else ()
        return all(p.name == LOCK or p.suffix == ".partial" for p in there)

    def _check_same(self, config: AdaptConfig, data: DataRecord) -> None:
        unlike = self.unlike(config, data)
        if unlike:
            raise RunError(
                f"{self.path} holds {unlike} Repeat its options and bring back its manifests and "
                "features to resume it, or give another --run."
            )

    def unlike(self, config: AdaptConfig, data: DataRecord) -> str:
        """How the run that stands here differs from what is asked for: part of a message, or empty.

        Raises:
            RunError: as `read`.
        """
        old_config, old_data = self.read()
        old = {**old_config.as_dict(), **dataclasses.asdict(old_data)}
        new = {**config.as_dict(), **dataclasses.asdict(data)}
        # Folders may have moved; videos and features are compared below, by what they are.
        for record in (old, new):
            for name in ("features", "manifests", "videos", "recipe", "features_sha256"):
                del record[name]
        options = config_differences(old, new)
        if options:
            return f"a run with other options, {options}."
        if old_data.videos != data.videos:
            return (
                f"a run on other videos or labels:\n  then {old_data.videos}\n  now  {data.videos}."
            )
        if data.features_sha256 != (old_data.features_sha256 or data.features_sha256):
            return "a run on the same videos with other features: they were made again since."
        return ""

    def forget_after(self, epoch: int) -> None:
        """Drop the metrics of epochs that are trained again.

        Raises:
            RunError: the disk refuses.
        """
        path = self.path / "metrics.jsonl"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            with explained(path, RunError, GO_ON):
                write_text(path, "".join(text.splitlines(True)[:epoch]))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one for each finished epoch.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / "metrics.jsonl"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
            for line in found:
                line["epoch"], line["seconds"] = int(line["epoch"]), float(line["seconds"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(f"{printable(path)} is damaged: {error}. Train again.") from error
        return found

    def is_finished(self) -> bool:
        """Whether the done mark stands."""
        return self.has("done.json")

    def read(self) -> tuple[AdaptConfig, DataRecord]:
        """What the run was asked to do.

        Raises:
            RunError: no run stands there, or its config is damaged or of another version.
        """
        record = read_json(self.path, "config.json")
        try:
            return AdaptConfig.load(record["config"]), DataRecord(**record["data"])
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise RunError(
                f"{self.path / 'config.json'} does not fit this version: {error}"
            ) from error

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: the disk refuses.
        """
        path = self.path / "metrics.jsonl"
        with explained(path, RunError, GO_ON), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def finish(
        self,
        result: Accuracy | None,
        *,
        videos: Sequence[Video],
        predicted: Sequence[int],
        probabilities: Sequence[float],
        classes: Sequence[str],
        checkpoint_sha256: str,
        chosen: Chosen,
        seconds: float,
    ) -> None:
        """Write predictions.csv, then the done mark; nothing is left to resume.

        Args:
            result: None where no video has a label.
            predicted, probabilities: of every video, the class and how probable the model takes it.
        """
        import pandas as pd  # half a second that training need not wait for

        named = [classes[i] for i in predicted]
        table = pd.DataFrame(
            {
                "video": [v.id for v in videos],
                "class": [v.class_name for v in videos],
                "predicted": named,
                "probability": [round(p, 4) for p in probabilities],
            }
        )
        text = table.to_csv(index=False, lineterminator="\n")
        with explained(self.path / "predictions.csv", RunError, GO_ON):
            write_text(self.path / "predictions.csv", text)
        write_json(
            self.path,
            "done.json",
            {
                "target_eval": None if result is None else dataclasses.asdict(result),
                **(
                    {}
                    if result
                    else {"no_accuracy": f"none of {counted(len(videos), 'video')} has a label"}
                ),
                "predicted": {name: named.count(name) for name in classes},
                "selection": chosen.selection,
                "epoch": chosen.epoch,
                "rules": chosen.rules,
                "checkpoint_sha256": checkpoint_sha256,
                "seconds": round(seconds, 1),
            },
        )
        for name in ("progress.pt", "progress.sha256"):
            (self.path / name).unlink(missing_ok=True)

    def result(self) -> Accuracy | None:
        """The accuracy that the run ended with; None where its target had no labels.

        Raises:
            RunError: the run did not finish, or done.json is damaged.
        """
        return read_done(self.path).target_eval

    def accuracy(self) -> Accuracy:
        """As `result`, where there must be one.

        Raises:
            RunError: as `result`, or the target had no labels.
        """
        result = self.result()
        if result is None:
            raise RunError(
                f"The run {self.path} has no accuracy, because its target had no labels. Its predictions "
                "are in predictions.csv."
            )
        return result

    def has(self, name: str) -> bool:
        """Whether the folder has a file of that name."""
        return (self.path / name).is_file()
