"""Tables of the rules, by the name of an operation and by the type of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from pruning.channels.attention import ATTENTION
from pruning.channels.layers import CONVS, LAYER_NORMS, NORMS, TRANSPOSED
from pruning.channels.rules import elementwise, layers, moves
from pruning.channels.rules.variables import ChannelVariables, operation

Rule = Callable[[ChannelVariables, fx.Node, Any], Any]

POINTWISE_LAYERS = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardshrink),
)
SPATIAL_LAYERS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
)
# Names of torch's functions and tensor methods; in-place forms (relu_, iadd) map to the plain name.
POINTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
    *("sigmoid", "logsigmoid", "tanh", "softplus", "softsign", "hardshrink", "hardtanh", "hardsigmoid"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "stochastic_depth"),
    *("add", "sub", "mul", "truediv", "div", "neg", "abs", "pow", "square", "sqrt", "exp"),
    *("clamp", "clamp_min", "maximum", "minimum", "max", "min", "expand_as"),
    *("contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16"),
)
SPATIAL = (
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    "interpolate",
)


def rule_of(node: fx.Node, layer: nn.Module | None) -> Rule | None:
    """The rule for a node, or None; layer: the module it calls, None for a function or method."""
    if layer is not None:
        return LAYER_RULES.get(type(layer))
    return RULES.get(operation(node)) if _is_torchs(node) else None


def _is_torchs(node: fx.Node) -> bool:
    """Whether a function or method is torch's, torchvision's or one of Python's operators."""
    module = "torch" if isinstance(node.target, str) else getattr(node.target, "__module__", None) or ""
    return module.split(".")[0] in ("torch", "torchvision", "_operator")


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, elementwise.pointwise),
    **dict.fromkeys(SPATIAL, elementwise.spatial),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), elementwise.reduction),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), moves.reshape),
    **dict.fromkeys(("chunk", "split"), moves.take_apart),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), moves.transpose),
    "cat": moves.cat,
    "expand": moves.expand,
    "getitem": moves.getitem,
    "pad": moves.pad,
    "permute": moves.permute,
    "unbind": moves.unbind,
}
LAYER_RULES: dict[type, Rule] = {
    **dict.fromkeys(CONVS, layers.conv),
    **dict.fromkeys(TRANSPOSED, layers.conv),
    **dict.fromkeys(NORMS, layers.norm),
    **dict.fromkeys(LAYER_NORMS, layers.layer_norm),
    **dict.fromkeys(POINTWISE_LAYERS, elementwise.pointwise),
    **dict.fromkeys(SPATIAL_LAYERS, elementwise.spatial),
    nn.Flatten: moves.reshape,
    nn.GroupNorm: layers.group_norm,
    nn.Linear: layers.linear,
    **dict.fromkeys(ATTENTION, layers.attention),
    nn.PReLU: elementwise.prelu,
}
AXIS_ONE = (layers.conv, layers.norm, layers.group_norm, elementwise.spatial)  # rules for channels on axis 1 only
SIZED = ("view", "reshape", "expand", "split")  # operations that take sizes, which may be computed from shapes
# Operations that need all channels of their input as they are: these are never cut.
WHOLE = ("shifted_window_attention",)
