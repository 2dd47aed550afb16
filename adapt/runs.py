"""The run folder: a run describes itself.

config.json       what was asked, resolved, and which features it was trained on
environment.json  versions, machine, command
metrics.jsonl     one line per epoch
progress.pt       what --resume goes on from; gone once the run is finished
checkpoint.pt     the method's model, all that prediction needs
predictions.csv   the target's evaluation videos, truth and prediction
done.json         written last: the accuracies and the rule by which the epoch was chosen
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from adapt import methods
from adapt.config import AdaptConfig
from adapt.environment import environment
from adapt.evaluate import Accuracy
from store.errors import ConfigError, RunError
from store.files import replacing, write_text
from store.format import config_differences
from store.locks import LOCK, folder_lock
from store.manifest import Video

_PARTIAL = re.compile(r"\..+\.partial")

SELECTION = "last epoch"
"""The rule that chooses the checkpoint: no label of the target is looked at."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where a run's features and manifests lie, beside the config that decides the numbers."""

    features: str
    manifests: str
    store: str
    """Folder name, the same for both domains."""
    feature_config_sha256: str
    allow_missing: bool
    videos: str
    """How many of each split, and a hash of which."""


class RunFolder:
    """One training run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it until `with` is left.

        Raises:
            RunError: another process is in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.path, wait=False) as mine:
            if not mine:
                raise RunError(
                    f"Another process is training in {self.path}. Let it finish, or stop it and go on "
                    "with --resume, or give another --run."
                )
            yield

    def begin(
        self, config: AdaptConfig, inputs: Inputs, *, resume: bool = False
    ) -> dict[str, Any] | None:
        """Make the folder and describe the run; with `resume`, find what to go on from.

        Returns:
            The kept state, None where the run starts from the beginning (or is finished).

        Raises:
            RunError: something else stands there, or a run with other options.
        """
        if not resume:
            self.refuse_used()
        there = self._contents()
        for left in [path for path in there if _PARTIAL.fullmatch(path.name)]:
            left.unlink()  # of a process that was killed while it wrote
            there.remove(left)
        if there:
            self._check_same(config, inputs)
            if self.is_finished():
                return None
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"config": dataclasses.asdict(config), "inputs": dataclasses.asdict(inputs)}
        self._write_json("config.json", record)
        self._write_json("environment.json", environment())
        kept = self._load("progress.pt") if self._has("progress.pt") else None
        self._forget_after(0 if kept is None else kept["epoch"])
        return kept

    def refuse_used(self) -> None:
        """Make sure that nothing stands here yet.

        Raises:
            RunError: something does.
        """
        if self._contents():
            more = " To go on with the run in it: --resume." if self._has("config.json") else ""
            raise RunError(f"{self.path} is not empty. Give another --run, or remove it.{more}")

    def _contents(self) -> list[Path]:
        """What stands in the folder, but for the lock."""
        there = self.path.iterdir() if self.path.exists() else ()
        return [path for path in there if path.name != LOCK]

    def _check_same(self, config: AdaptConfig, inputs: Inputs) -> None:
        old_config, old_inputs = self.read()
        old, new = (
            {**dataclasses.asdict(c), **dataclasses.asdict(i)}
            for c, i in ((old_config, old_inputs), (config, inputs))
        )
        # Folders may have moved; that the features are the same their config's sha256 says.
        unlike = config_differences(
            *(
                {k: v for k, v in d.items() if k not in ("features", "manifests", "videos")}
                for d in (old, new)
            )
        )
        if unlike:
            raise RunError(
                f"{self.path} holds a run with other options, {unlike}. Repeat its options to "
                "resume it, or give another --run."
            )
        if old_inputs.videos != inputs.videos:
            raise RunError(
                f"{self.path} holds a run on other videos:\n  then {old_inputs.videos}\n"
                f"  now  {inputs.videos}\nBring the manifests back, or give another --run."
            )

    def _forget_after(self, epoch: int) -> None:
        """Drop the metrics of epochs that are trained again."""
        if self._has("metrics.jsonl"):
            text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
            write_text(self.path / "metrics.jsonl", "".join(text.splitlines(True)[:epoch]))

    def is_finished(self) -> bool:
        """Whether the done mark stands."""
        return self._has("done.json")

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write what --resume goes on from, all or nothing."""
        with replacing(self.path / "progress.pt") as temporary:
            torch.save(dict(state), temporary)

    def read(self) -> tuple[AdaptConfig, Inputs]:
        """What the run was asked to do.

        Raises:
            RunError: no run stands there, or its config is of another version.
        """
        record = self._read_json("config.json")
        try:
            return AdaptConfig(**record["config"]), Inputs(**record["inputs"])
        except (KeyError, TypeError, ConfigError) as error:
            raise RunError(
                f"{self.path / 'config.json'} does not fit this version: {error}"
            ) from error

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def save_model(self, model: nn.Module, width: int, classes: Sequence[str]) -> None:
        """Write checkpoint.pt: tensors, numbers and names only, nothing that runs."""
        state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        checkpoint = {"backbone_width": width, "classes": list(classes), "model": state}
        with replacing(self.path / "checkpoint.pt") as temporary:
            torch.save(checkpoint, temporary)

    def load_model(self, config: AdaptConfig) -> tuple[nn.Module, list[str]]:
        """The trained model in evaluation mode, and the class names.

        Raises:
            RunError: the run did not finish, or the file is no checkpoint.
        """
        if not self._has("checkpoint.pt"):
            raise RunError(f"{self.path} has no checkpoint.pt: the run did not finish.")
        checkpoint = self._load("checkpoint.pt")
        try:
            classes: list[str] = checkpoint["classes"]
            method = methods.find(config.method)
            model = method.model(config, checkpoint["backbone_width"], len(classes))
            model.load_state_dict(checkpoint["model"])
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{self.path / 'checkpoint.pt'} does not fit the run's config: {reason}"
            ) from error
        return model.eval(), classes

    def finish(
        self,
        result: Accuracy,
        *,
        videos: Sequence[Video],
        logits_VN: Tensor,
        classes: Sequence[str],
        seconds: float,
    ) -> None:
        """Write predictions.csv, then the done mark; nothing is left to resume."""
        probabilities, predicted = logits_VN.softmax(dim=1).max(dim=1)
        table = pd.DataFrame(
            {
                "video": [v.id for v in videos],
                "class": [v.class_name for v in videos],
                "predicted": [classes[i] for i in predicted.tolist()],
                "probability": [round(p, 4) for p in probabilities.tolist()],
            }
        )
        write_text(self.path / "predictions.csv", table.to_csv(index=False, lineterminator="\n"))
        self._write_json(
            "done.json",
            {
                "target_eval": dataclasses.asdict(result),
                "selection": SELECTION,
                "seconds": round(seconds, 1),
            },
        )
        (self.path / "progress.pt").unlink(missing_ok=True)

    def result(self) -> Accuracy:
        """The accuracy that the run ended with.

        Raises:
            RunError: the run did not finish.
        """
        return Accuracy(**self._read_json("done.json")["target_eval"])

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _load(self, name: str) -> dict[str, Any]:
        """Tensors, numbers and names; a file that would run code is refused."""
        try:
            loaded: dict[str, Any] = torch.load(
                self.path / name, map_location="cpu", weights_only=True
            )
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{self.path / name} is not a checkpoint of this program: {reason}"
            ) from error
        return loaded

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_text(self.path / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {name}: no run, or one that did not finish."
            ) from None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from error
        return value
