"""The score of a target as a module that captum can hook: resizing, normalisation and log-odds included.

captum's modified backward passes (guided backpropagation, deconvolution, DeepLift) act on modules such as
``nn.ReLU``. A model that calls ``functional.relu``, uses one ``nn.ReLU`` twice or works in place escapes them
or breaks them, silently. :func:`with_modules` therefore traces the model (``torch.fx``) and gives every call
a module of its own; parameters are shared, the model itself is not touched.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from explainer.classifier import Classifier, Target
from explainer.errors import OptionError
from explainer.frozen import modules_within

__all__ = ["ScoreModule", "hookable", "last_convolution", "named_layer", "with_modules"]

_RELU = (functional.relu, functional.relu_, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


class ScoreModule(nn.Module):
    """``images (N, C, H, W) in [0, 1] -> score (N,)`` of one target; its submodules are the classifier's.

    Args:
        classifier: Evaluate inside its ``frozen()``.
        target: What the score is of.
    """

    def __init__(self, classifier: Classifier, target: Target) -> None:
        super().__init__()
        self.classifier, self.target = classifier, target
        self.inner = nn.ModuleList(modules_within(classifier.model))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.score(images, self.target)


def with_modules(classifier: Classifier) -> Classifier:
    """A classifier whose ReLU and max-pooling calls are modules of their own; itself if it cannot be traced.

    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         return functional.relu(x.mean(dim=(1, 2, 3)) - 0.5)
    >>> [type(module).__name__ for module in with_modules(Classifier(Net())).model.children()]
    ['ReLU']
    """
    model = classifier.model
    if not isinstance(model, nn.Module):
        return classifier
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # torch.fx runs the model's own code on stand-ins: anything may be raised there
        return classifier
    modules = dict(traced.named_modules())
    for number, node in enumerate(list(traced.graph.nodes)):
        replacement = _module_of(node, modules)
        if replacement is None:
            continue
        name = f"hookable_{number}"
        traced.add_submodule(name, replacement)
        with traced.graph.inserting_after(node):
            fresh = traced.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(fresh)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    twin = copy.copy(classifier)
    twin.model = traced
    return twin


def _module_of(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The module that does what one call of the graph does, if that call is a ReLU or a max-pooling."""
    if node.op == "call_module" and isinstance(modules.get(str(node.target)), nn.ReLU):
        return nn.ReLU()
    if (node.op == "call_function" and node.target in _RELU) or (
        node.op == "call_method" and node.target in _RELU_METHODS
    ):
        return nn.ReLU()
    if node.op == "call_function" and node.target in (functional.max_pool2d, torch.max_pool2d):
        options = dict(zip(("kernel_size", "stride", "padding", "dilation"), node.args[1:], strict=False))
        options |= {key: value for key, value in node.kwargs.items() if key != "input"}
        return nn.MaxPool2d(**{key: value for key, value in options.items() if value is not None})  # type: ignore[arg-type]
    return None


def hookable(classifier: Classifier, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether the model has a module of one of these kinds."""
    return any(
        isinstance(module, kinds) for root in modules_within(classifier.model) for module in root.modules()
    )


def last_convolution(classifier: Classifier) -> nn.Module:
    """The last two-dimensional convolution, the usual layer of Grad-CAM.

    Raises:
        OptionError: There is none.
    """
    found = [
        module
        for root in modules_within(classifier.model)
        for module in root.modules()
        if isinstance(module, nn.Conv2d)
    ]
    if not found:
        raise OptionError(
            "layer", "must be named: the classifier has no convolution", received="None",
            remedy="Pass the module whose output is (batch, channels, height, width).",
        )  # fmt: skip
    return found[-1]


def named_layer(classifier: Classifier, layer: str | nn.Module | None) -> nn.Module:
    """The layer meant by a name, a module or None.

    Raises:
        OptionError: No such layer.
    """
    if layer is None:
        return last_convolution(classifier)
    layers = {
        name: module for root in modules_within(classifier.model) for name, module in root.named_modules()
    }
    if isinstance(layer, nn.Module):
        if not any(layer is module for module in layers.values()):
            raise OptionError(
                "layer", "is no part of the classifier", received=type(layer).__name__,
                remedy="Pass one of its modules, or a name from model.named_modules().",
            )  # fmt: skip
        return layer
    if layer not in layers:
        raise OptionError(
            "layer", "is no part of the classifier", received=layer,
            remedy=f"Choose from: {', '.join(name for name in list(layers)[:20] if name)}.",
        )  # fmt: skip
    return layers[layer]
