"""A trained model in the form that a CPU computes fastest in bfloat16; needs no compiler.

Batch norms are folded into the convolutions before them, weights are rounded to bfloat16 and laid out for
the processor once, and the activation and the addition that follow a convolution are computed while its
result is still in the cache. On ResNet-101 this is 2.2 times as fast as autocast of the plain model and
as fast as torch.compile with freezing (benchmarks/extract.md). The operators are those that
torch.compile itself lowers convolutions to on a CPU (`torch._inductor.fx_passes.mkldnn_fusion`).

Everything else in the model, a linear layer or an attention, is left as it is and runs under autocast.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

FORM = "batch norms folded, bfloat16 weights, oneDNN"
"""What a store's config says of features that were computed so."""

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_NOTHING: tuple[str, list[float]] = ("none", [])


def is_available() -> bool:
    """Whether this processor and this build of torch compute bfloat16 convolutions with oneDNN."""
    try:
        return torch.backends.mkldnn.is_available() and bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
            and torch.ops.mkldnn._convolution_pointwise_
            and torch._C._nn.mkldnn_reorder_conv2d_weight
        )
    except (AttributeError, RuntimeError):
        return False


def is_traceable(model: nn.Module) -> bool:
    """Whether torch can follow the model's computation; some of timm's depend on their input."""
    try:
        fx.symbolic_trace(model)
    except Exception:  # whatever the model's own code raises when it is given no numbers
        return False
    return True


def fuse(model: nn.Module) -> nn.Module:
    """The model, in evaluation mode and float32, with its convolutions fused; the model is used up.

    The result takes (B, C, H, W) images in float32 and must run under bfloat16 autocast. The first
    batch lays out the weights for its size.
    """
    graph = fx.symbolic_trace(model)
    _fold_batch_norms(graph)
    _fuse_additions(graph)
    for node in list(graph.graph.nodes):
        if _is_conv(graph, node):
            _replace(graph, node, node, None)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


class FusedConv(nn.Module):
    """act(conv(x) [+ other]) in bfloat16; `other` is overwritten by the result."""

    def __init__(self, conv: nn.Conv2d, activation: tuple[str, list[float]]) -> None:
        super().__init__()
        self._weight = conv.weight.detach().to(torch.bfloat16)
        self._bias = None if conv.bias is None else conv.bias.detach().to(torch.bfloat16)
        padding, stride, dilation = conv.padding, conv.stride, conv.dilation
        self._geometry: tuple[Any, ...] = (padding, stride, dilation, conv.groups)
        self._name, self._scalars = activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W') bfloat16, channels last."""
        x = x.to(torch.bfloat16)
        if not self._weight.is_mkldnn:
            lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._weight = lay_out(self._weight.to_mkldnn(), *self._geometry, x.shape)
        given = (x, self._weight, self._bias, *self._geometry)
        if other is None:
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                *given, self._name, self._scalars, ""
            )
            return result
        after = None if self._name == "none" else self._name
        result = torch.ops.mkldnn._convolution_pointwise_(
            other, *given, "add", 1.0, after, self._scalars, ""
        )
        return result


def _fold_batch_norms(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        before: Any = node.args[0] if node.args else None
        if _calls(graph, node, nn.BatchNorm2d) and _is_conv(graph, before, users=1):
            conv, norm = (graph.get_submodule(n.target) for n in (before, node))
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            graph.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)


def _fuse_additions(graph: fx.GraphModule) -> None:
    """Let the last convolution of a residual block add the block's input and apply the activation."""
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        addition = node.op == "call_function" and node.target in _ADDITIONS
        if not addition or len(node.args) != 2 or node.kwargs:
            continue
        for conv, other in (node.args, node.args[::-1]):
            if _is_conv(graph, conv, users=1) and _may_overwrite(graph, other, conv, node, order):
                _replace(graph, conv, node, other)
                break


def _may_overwrite(
    graph: fx.GraphModule, other: Any, conv: fx.Node, node: fx.Node, order: dict[fx.Node, int]
) -> bool:
    """Whether only convolutions that are computed before `conv` read `other` besides the addition.

    A convolution moves to the addition of its result, so their results must be used before this one too.
    Memory that a convolution has just allocated has no other name, and a convolution gives it none.
    """

    def convolves(node: Any) -> bool:
        return _is_conv(graph, node) or _calls(graph, node, FusedConv)

    if not convolves(other) or other is conv or other is conv.args[0]:
        return False
    # What was replaced already stands before this addition and has no place in `order`.
    readers = [user for user in other.users if user is not node]
    if any(order.get(user, -1) > order[node] for reader in readers for user in reader.users):
        return False
    return all(convolves(n) and order.get(n, -1) < order[conv] for n in (other, *readers))


def _replace(graph: fx.GraphModule, conv: fx.Node, last: fx.Node, other: Any) -> None:
    """Put a FusedConv in the place of `last`, for all from `conv` to the activation after `last`."""
    users = list(last.users)
    activation = _activation(graph, users[0]) if len(users) == 1 else _NOTHING
    module = graph.get_submodule(str(conv.target))
    assert isinstance(module, nn.Conv2d)
    name = f"{conv.target}_fused"
    graph.add_submodule(name, FusedConv(module, activation))
    with graph.graph.inserting_before(last):
        arguments = (conv.args[0],) if other is None else (conv.args[0], other)
        fused = graph.graph.call_module(name, arguments)
    (last if activation is _NOTHING else users[0]).replace_all_uses_with(fused)
    graph.graph.eliminate_dead_code()


def _activation(graph: fx.GraphModule, node: fx.Node) -> tuple[str, list[float]]:
    if node.op == "call_function" and node.target in (F.relu, torch.relu):
        return _ACTIVATIONS[nn.ReLU]
    if node.op != "call_module":
        return _NOTHING
    return _ACTIVATIONS.get(type(graph.get_submodule(str(node.target))), _NOTHING)


def _is_conv(graph: fx.GraphModule, node: Any, users: int | None = None) -> bool:
    """Whether the node is a convolution that FusedConv can compute, with so many users."""
    if not _calls(graph, node, nn.Conv2d) or users not in (None, len(node.users)):
        return False
    conv = graph.get_submodule(node.target)
    assert isinstance(conv, nn.Conv2d)
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _calls(graph: fx.GraphModule, node: Any, kind: type[nn.Module]) -> bool:
    """Whether the node is the only call of a module of exactly this type."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return False
    once = sum(n.op == node.op and n.target == node.target for n in graph.graph.nodes) == 1
    return once and type(graph.get_submodule(str(node.target))) is kind
