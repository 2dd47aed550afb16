"""The values that networks start from, for presets that bear their authors' names."""

from __future__ import annotations

from torch import Tensor, nn

SMALL_DEVIATION = 0.001
"""Standard deviation of the weights that TA3N's authors start from."""
SCALE_DEVIATION = 0.02
"""Standard deviation of the batch norm scales, around 1, that MA2L-TD's authors start from."""


def initialise(module: nn.Module, kind: str) -> None:
    """Set a module's values before training, in place.

    `small-normal` (TA3N's authors): every linear layer has weights from N(0, 0.001) and zero biases.
    `xavier` (MA2L-TD's authors): every linear layer has Xavier normal weights, from
    N(0, 2 / (inputs + outputs)), and zero biases; batch norm scales are drawn from N(1, 0.02).
    Everything else, convolutions among it, keeps torch's own values, and with `default` all of it does.
    """
    for part in module.modules():
        stacked = getattr(part, "initialise_linear", None)
        if stacked is not None:  # linear layers whose weights are stacked by slot
            stacked(kind)
        elif isinstance(part, nn.Linear):
            initialise_linear(part.weight, part.bias, kind, part.in_features, part.out_features)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm) and kind == "xavier":
            nn.init.normal_(part.weight, 1.0, SCALE_DEVIATION)
            nn.init.zeros_(part.bias)


def initialise_linear(
    weight: Tensor, bias: Tensor | None, kind: str, inputs: int, outputs: int
) -> None:
    """Set the values of one linear layer, or of many of the same size; see `initialise`."""
    if kind == "small-normal":
        nn.init.normal_(weight, std=SMALL_DEVIATION)
    elif kind == "xavier":
        nn.init.normal_(weight, std=(2 / (inputs + outputs)) ** 0.5)
    if kind != "default" and bias is not None:
        nn.init.zeros_(bias)
