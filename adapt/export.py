"""A run's model as one file that needs none of this code: a program of torch.export, or ONNX."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapt.bank import FeatureBank
from adapt.checkpoint import Trained
from adapt.prediction import predict
from adapt.whole import WholeVideos
from store.errors import ConfigError, RunError

ABOUT = "model.json"
"""The extra file of the archive, or the ONNX model's metadata of this name, that describes the model."""
TOLERANCE = 1e-4
"""The largest difference of a probability between the exported model and the run."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CPU = torch.device("cpu")


class FromFrames(nn.Module):
    """Prepared frames of a whole video (F, S, S, 3) uint8 -> probabilities (N,).

    Only the frames that the run looks at pass through the backbone, so that memory does not grow with
    the video. Their features are rounded to float16, as stored ones are.

    Args:
        backbone: (F, S, S, 3) uint8 -> (F, D) float32.
    """

    def __init__(self, backbone: nn.Module, whole: WholeVideos) -> None:
        super().__init__()
        self.backbone, self.whole = backbone, whole

    def forward(self, frames_FHWC: Tensor) -> Tensor:
        """See the class."""
        frames_KT = self.whole.pick(frames_FHWC.shape[0])
        features_FD = self.backbone(frames_FHWC[frames_KT.flatten()]).half().float()
        picked_KTD = features_FD.unflatten(0, (frames_KT.shape[0], frames_KT.shape[1]))
        probabilities_N: Tensor = self.whole.from_picked(picked_KTD[None])[0]
        return probabilities_N


@dataclass(frozen=True)
class Case:
    """An input, and what the run itself predicts for it."""

    given: Tensor
    expected: Tensor


def feature_cases(trained: Trained, videos: Sequence[np.ndarray]) -> list[Case]:
    """Inputs (B, F, D) of the model without its backbone: some videos, and made-up ones of any length.

    The last one is the example that is traced. It is made up, because a video may have a single frame, and a
    dimension of 1 would be taken for a constant.

    Args:
        videos: as stored, (frames, D); there may be none.
    """
    random, frames = np.random.default_rng(0), trained.config.frames
    shapes = [(1, 1), (2, 2), (1, frames), (3, 3 * frames + 1)]
    made = [np.abs(random.normal(size=(*s, trained.backbone_width))) for s in shapes]
    batches = [*(video[None] for video in videos), *(x.astype(np.float16) for x in made)]
    return [
        Case(torch.from_numpy(x).float(), torch.stack([by_run(trained, video) for video in x]))
        for x in batches
    ]


def frame_cases(
    trained: Trained, side: int, features_of: Callable[[np.ndarray], np.ndarray]
) -> list[Case]:
    """Inputs (F, S, S, 3) of the model with its backbone: made-up patches of colour.

    Args:
        side: S.
        features_of: the backbone as `extract` uses it, (F, S, S, 3) uint8 -> (F, D) float32.
    """
    random, cases = np.random.default_rng(0), []
    for count in (2, trained.config.frames + 3):
        patches = random.integers(0, 256, (count, 7, 7, 3), np.uint8)
        times = -(-side // 7)
        frames = patches.repeat(times, axis=1).repeat(times, axis=2)[:, :side, :side].copy()
        features_FD = features_of(frames).astype(np.float16)
        cases.append(Case(torch.from_numpy(frames), by_run(trained, features_FD)))
    return cases


def by_run(trained: Trained, features_FD: np.ndarray) -> Tensor:
    """What the run predicts for one video, by the way that evaluates runs: probabilities (N,)."""
    logits_VN = predict(trained.model, FeatureBank([features_FD], _CPU), trained.config)
    return logits_VN.softmax(dim=1)[0]


def exported(
    module: nn.Module, cases: Sequence[Case], about: Mapping[str, Any], form: str
) -> bytes:
    """The file of an exported model, after it was read back and compared with the run.

    A video may have any number of frames. Of a module that takes features, there may be any number of
    videos too, unless the method's code branches on it: then one at a time, and the file says so.

    Args:
        cases: what it is tried on; the last one, which has several frames, is traced.
        about: what the file says of itself.
        form: pt2 or onnx.

    Raises:
        ConfigError: ONNX is asked for, and its packages are not installed.
        RunError: the model cannot be exported, or the exported one predicts otherwise.
    """
    write = {"pt2": _as_pt2, "onnx": _as_onnx}[form]
    example, single = cases[-1].given, isinstance(module, FromFrames)
    several = not single
    try:
        if single:
            program = _program(module, example, ("frames",))
        else:
            # A dimension of 1 would be taken for a constant.
            program = _program(module, example[:1].repeat(2, 1, 1), ("videos", "frames"))
    except RunError:
        if single:
            raise
        several = False
        program = _program(module, example[:1], (None, "frames"))
    videos = {} if single else {"videos": "any number" if several else "one at a time"}
    data, run = write(program, json.dumps({**about, **videos}))
    for case in cases:
        one_by_one = not single and not several
        _compare(
            torch.cat([run(x[None]) for x in case.given]) if one_by_one else run(case.given), case
        )
    return data


def _program(module: nn.Module, example: Tensor, names: Sequence[str | None]) -> Any:
    """The module as a program whose first dimensions have any size, but for those without a name."""
    sizes = {at: torch.export.Dim(name, min=1) for at, name in enumerate(names) if name}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # torch.export has no error of its own
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"torch {torch.__version__} cannot export this model: {reason}") from error


def _compare(found: Tensor, case: Case) -> None:
    difference = float((found - case.expected).abs().max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"The exported model is wrong: on an input of shape {tuple(case.given.shape)} a probability "
            f"differs from the run's by {difference:.2g}, more than {TOLERANCE:.0e}. Nothing was written; "
            f"this is a fault of torch {torch.__version__} or of this program."
        )


_Written = tuple[bytes, Callable[[Tensor], Tensor]]
"""A file, and the model as it is read back from it."""


def _as_pt2(program: Any, about: str) -> _Written:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: about})
    data = file.getvalue()
    module = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def run(given: Tensor) -> Tensor:
        result: Tensor = module(given)
        return result

    return data, run


def check_onnx() -> None:
    """Make sure that ONNX can be written and tried here.

    Raises:
        ConfigError: a package is not installed.
    """
    lacking = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"--format onnx needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not "
            f"installed. Run: pip install {' '.join(lacking)}, or leave --format out."
        )


def _as_onnx(program: Any, about: str) -> _Written:
    check_onnx()
    import onnxruntime

    for name in ("onnx_ir", "onnxscript"):  # they report every constant that they merge
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    model = written.model_proto
    model.metadata_props.add(key=ABOUT, value=about)
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    [given_name] = [value.name for value in session.get_inputs()]

    def run(given: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given_name: given.numpy()})[0])

    return data, run
