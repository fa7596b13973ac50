"""Modules that are evaluated and left exactly as they were found.

While frozen, every submodule is in evaluation mode (dropout and batch normalisation included), no
parameter asks for a gradient and the gradients that were there are out of reach. Afterwards, also after
an exception, each of these is what it was: the training flag of every single submodule (a model may keep
some of them in evaluation mode while it trains), ``requires_grad``, the ``.grad`` tensors themselves,
buffers and their contents, hooks, device.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["frozen", "modules_within"]

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)
_DEPTH = 4  # a decorated function that calls a function that holds an ensemble
_LARGEST_CONTAINER = 256  # an ensemble, not a list of all images


@contextmanager
def frozen(modules: list[nn.Module], device: torch.device | None = None) -> Iterator[None]:
    """Evaluate modules inside this context; on leaving they are as they were.

    Args:
        modules: Modules, with all their submodules.
        device: Where to evaluate them; where they are when omitted.

    >>> layer = nn.Linear(2, 1)
    >>> with frozen([layer]):
    ...     layer.training, layer.weight.requires_grad
    (False, False)
    >>> layer.training, layer.weight.requires_grad
    (True, True)
    """
    state = _State(modules)
    try:
        state.freeze(device)
        yield
    finally:
        state.restore()


def modules_within(model: Callable[..., Any]) -> list[nn.Module]:
    """Modules that a callable evaluates, as far as they can be found.

    Looks into partial functions, bound methods, closures, the globals a function names, decorated
    functions, and the attributes of callable objects and of containers among them.

    Args:
        model: A module (then the answer is that module alone) or any callable.

    Returns:
        The outermost modules found, each once.

    >>> layer = nn.Linear(2, 1)
    >>> modules_within(lambda images: layer(images.mean(dim=(2, 3)))) == [layer]
    True
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            found[id(value)] = value
        elif depth > 0 and id(value) not in seen:
            seen.add(id(value))
            for part in _parts(value):
                visit(part, depth - 1)

    visit(model, _DEPTH)
    return list(found.values())


def _parts(value: Any) -> list[Any]:
    """What a callable or container holds that could be, or hold, a module."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        try:
            names = inspect.getclosurevars(value)
        except ValueError:  # a closure over a variable that is not assigned yet
            return []
        return [*names.nonlocals.values(), *names.globals.values()]
    if isinstance(value, list | tuple | set | dict):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        return parts if len(parts) <= _LARGEST_CONTAINER else []
    if inspect.ismodule(value) or inspect.isclass(value):
        return []
    return list(getattr(value, "__dict__", {}).values())


class _State:
    """What evaluation could change in some modules: taken once, put back by :meth:`restore`."""

    def __init__(self, roots: list[nn.Module]) -> None:
        self.modules = list({id(module): module for root in roots for module in root.modules()}.values())
        parameters = {id(parameter): parameter for root in roots for parameter in root.parameters()}
        self.training = [module.training for module in self.modules]
        self.parameters = [
            (parameter, parameter.requires_grad, parameter.grad, parameter.data)
            for parameter in parameters.values()
        ]
        self.buffers = [
            (module, name, buffer, buffer.clone())
            for module in self.modules
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self.hooks = [
            (hooks, hooks.copy())
            for module in self.modules
            for name in _HOOKS
            if (hooks := getattr(module, name, None)) is not None
        ]
        self.full_backward = [getattr(module, "_is_full_backward_hook", None) for module in self.modules]

    def freeze(self, device: torch.device | None) -> None:
        for module in self.modules:
            # Not module.eval(): a module may override train() with lasting effects (merged adapters).
            module.training = False
        for parameter, _, _, data in self.parameters:
            parameter.grad = None
            if parameter.requires_grad:
                parameter.requires_grad_(False)
            if device is not None and data.device != device:
                parameter.data = data.to(device)
        for module, name, buffer, _ in self.buffers:
            if device is not None and buffer.device != device:
                setattr(module, name, buffer.to(device))

    def restore(self) -> None:
        for module, training, full_backward in zip(
            self.modules, self.training, self.full_backward, strict=True
        ):
            module.training = training
            if getattr(module, "_is_full_backward_hook", None) is not full_backward:
                module._is_full_backward_hook = full_backward
        for parameter, requires_grad, grad, data in self.parameters:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for module, name, buffer, contents in self.buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not torch.equal(buffer, contents):
                with torch.no_grad():
                    buffer.copy_(contents)
        for hooks, before in self.hooks:
            if hooks != before:
                hooks.clear()
                hooks.update(before)
