"""Options of the extract stage. No torch here, so `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from store.errors import ConfigError
from store.machine import DEVICE_HELP, DEVICES, check_device
from store.options import check_options, option

TIMM = "timm:"
"""What the name of a backbone begins with that is one of timm's."""
CHANGED = "//changed"
"""Among the videos to extract again: all whose file is another one now. No id has an empty part."""
PRESETS = {
    "auto": "ta3n, or timm for a backbone of timm",
    "ta3n": "shorter side 224, centre crop 224: how this field's published features were made",
    "torchvision": "the transforms published with the weights of a torchvision backbone",
    "timm": "those published with the weights of a timm backbone, which takes no others",
}


def is_timm(backbone: str) -> bool:
    """Return whether the name is that of a model of timm."""
    return backbone.startswith(TIMM)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What the user asks of `extract`. What decides the numbers comes first, then what does not.

    Raises:
        ConfigError: a value out of range.
    """

    backbone: str = field(
        default="resnet101",
        metadata=option(
            "Any torchvision classification model, by name; or timm:NAME, a model of timm."
        ),
    )
    weights: str = field(
        default="auto",
        metadata=option(
            "A torchvision name (imagenet1k_v1, imagenet1k_v2), a tag of timm, random:SEED, or the path of "
            "a state dict (.safetensors too). auto: imagenet1k_v1; of timm, the tag in the backbone's name "
            "or else its first."
        ),
    )
    preset: str = field(
        default="auto",
        metadata=option("; ".join(f"{k}: {v}" for k, v in PRESETS.items()) + ".", choices=PRESETS),
    )
    stride: int = field(
        default=1, metadata=option("Keep every N-th frame, from the first.", least=1)
    )
    frames_per_video: int = field(
        default=0, metadata=option("Keep N evenly spaced frames of every video; 0: all.")
    )
    precision: str = field(
        default="auto",
        metadata=option(
            "Compute type of the backbone; stored is always float16. auto: float16 on a GPU; on a CPU "
            "bfloat16 where the processor multiplies it in hardware (AMX, AVX512-BF16), else float32. "
            "Name one where machines of several kinds make one store.",
            choices=("auto", "float32", "bfloat16", "float16"),
        ),
    )
    input: str = field(
        default="videos",
        metadata=option(
            "Video files, or one folder of images per video.", choices=("videos", "frames")
        ),
    )
    device: str = field(default="auto", metadata=option(DEVICE_HELP, metavar=DEVICES))
    batch: int = field(
        default=0,
        metadata=option("Frames in one forward pass.", default_text="16 on a CPU, 128 on a GPU"),
    )
    workers: int = field(
        default=0,
        metadata=option("Decoding processes.", default_text="one per core, 16 at most"),
    )
    keep_damaged: bool = field(
        default=False,
        metadata=option(
            "Store the whole frames of files that are cut off or damaged, marked so, instead of "
            "refusing the files."
        ),
    )
    decode_timeout: int = field(
        default=120,
        metadata=option("Seconds without progress after which a decoder is replaced.", least=1),
    )
    limit: int = field(default=0, metadata=option("Extract N more videos, then stop; 0: all."))
    rank: int = field(
        default=0,
        metadata=option(
            "This process among --world.", default_text="from torchrun or SLURM, else 0"
        ),
    )
    world: int = field(
        default=0,
        metadata=option(
            "Processes that share the work.", default_text="from torchrun or SLURM, else 1"
        ),
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_device(self.device)
        if is_timm(self.backbone) != (self.preset == "timm") and self.preset != "auto":
            raise ConfigError(
                f"--preset {self.preset} is not for --backbone {self.backbone}: models of timm take timm, "
                "those of torchvision ta3n or torchvision. Leave --preset out."
            )
        if self.stride > 1 and self.frames_per_video:
            raise ConfigError("Give --stride or --frames-per-video, not both.")
        if self.rank and self.rank >= self.world:
            raise ConfigError(f"--rank must be below --world, got {self.rank} of {self.world}.")
