"""Options of the extract stage. No torch here, so `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from extract.errors import ConfigError

PRESETS = {
    "ta3n": "shorter side 224, centre crop 224: how this field's published features were made",
    "torchvision": "the transforms published with the backbone's weights",
}


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What the user asks of `extract`. Everything but the last four decides the numbers.

    Raises:
        ConfigError: a value out of range.
    """

    backbone: str = field(
        default="resnet101", metadata={"help": "Any torchvision classification model, by name."}
    )
    weights: str = field(
        default="imagenet1k_v1",
        metadata={
            "help": "A torchvision name (imagenet1k_v1), random:SEED, or the path of a state dict."
        },
    )
    preset: str = field(
        default="ta3n",
        metadata={
            "choices": tuple(PRESETS),
            "help": "; ".join(f"{k}: {v}" for k, v in PRESETS.items()) + ".",
        },
    )
    stride: int = field(default=1, metadata={"help": "Keep every N-th frame, from the first."})
    precision: str = field(
        default="float32",
        metadata={
            "choices": ("float32", "bfloat16", "float16"),
            "help": "Compute type of the backbone; stored is always float16.",
        },
    )
    device: str = field(
        default="auto",
        metadata={"choices": ("auto", "cpu", "cuda"), "help": "auto: a GPU if there is one."},
    )
    batch: int = field(default=16, metadata={"help": "Frames in one forward pass."})
    workers: int = field(
        default=0,
        metadata={"help": "Decoding processes; 0: one on a CPU, else one per core, 8 at most."},
    )
    limit: int = field(default=0, metadata={"help": "Extract N more videos, then stop; 0: all."})

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("batch", 1), ("workers", 0), ("limit", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} must be {least} or more, got {getattr(self, name)}.")
        if self.preset not in PRESETS:
            raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
