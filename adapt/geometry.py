"""The shape of the temporal pyramid, derived from kernel and levels (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass

from store.errors import ConfigError, counted

MOST_FRAMES, MOST_LEVELS = 10_000, 30


@dataclass(frozen=True)
class Geometry:
    """Slots and dilations of MA2L-TD's pyramid, sec. 3.2 of the paper.

    d_1 = 1, d_m = (q-1) d_{m-1} + 1, k_{m+1} = k_m - (q-1) d_m, and k_M = 1.

        kernel 3, levels 3:  9 frames  -> dilation 1 -> 7 slots -> dilation 3 -> 1 slot

    Raises:
        ConfigError: kernel or levels below 2 or beyond reason, or more than 10,000 frames.
    """

    kernel: int
    levels: int

    def __post_init__(self) -> None:
        for name, most in (("kernel", MOST_FRAMES), ("levels", MOST_LEVELS)):
            value = getattr(self, name)
            if not 2 <= value <= most:
                raise ConfigError(f"--{name} must be from 2 to {most}, got {value}.")
        if self.frames > MOST_FRAMES:
            raise ConfigError(
                f"--kernel {self.kernel} with --levels {self.levels} needs "
                f"{counted(self.frames, 'frame')} of "
                f"every video; the most is {MOST_FRAMES:,}. Lower either."
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """d_1 .. d_{M-1}: from level m to level m+1."""
        dilations = [1]
        while len(dilations) < self.levels - 1:
            dilations.append((self.kernel - 1) * dilations[-1] + 1)
        return tuple(dilations)

    @property
    def slots(self) -> tuple[int, ...]:
        """k_1 .. k_M, from the frames down to one."""
        slots = [1]
        for dilation in reversed(self.dilations):
            slots.append(slots[-1] + (self.kernel - 1) * dilation)
        return tuple(reversed(slots))

    @property
    def frames(self) -> int:
        """Frames sampled per video, k = k_1."""
        return self.slots[0]
