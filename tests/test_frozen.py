"""Evaluation leaves no trace in a module."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn

from explainer.frozen import frozen, modules_within


def trained_network() -> nn.Sequential:
    """A network as a training loop may leave it: mixed modes, gradients, frozen and hooked parts."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    network(torch.rand(8, 3, 8, 8)).sum().backward()
    network[1].eval()
    network[5].weight.requires_grad_(False)
    network[5].register_forward_hook(lambda module, inputs, output: None)
    return network


def state(network: nn.Module) -> dict[str, object]:
    """Everything that has to be the same afterwards, by identity where objects matter."""
    return {
        "training": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "parameters": [id(parameter) for parameter in network.parameters()],
        "storage": [parameter.data_ptr() for parameter in network.parameters()],
        "grad": [id(parameter.grad) for parameter in network.parameters()],
        "grad contents": [parameter.grad.tolist() for parameter in network.parameters()],
        "buffers": [id(buffer) for buffer in network.buffers()],
        "contents": {name: value.tolist() for name, value in network.state_dict().items()},
        "hooks": [list(module._forward_hooks.values()) for module in network.modules()],
        "device": [str(parameter.device) for parameter in network.parameters()],
    }


def test_inside_everything_is_frozen() -> None:
    network = trained_network()
    with frozen([network]):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_left_as_found() -> None:
    network = trained_network()
    before = state(network)
    with frozen([network]):
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        network(images).sum().backward()
    assert images.grad is not None
    assert state(network) == before


def test_left_as_found_after_an_exception() -> None:
    network = trained_network()
    before = state(network)
    with pytest.raises(KeyboardInterrupt), frozen([network]):
        raise KeyboardInterrupt
    assert state(network) == before


def test_left_as_found_after_abuse() -> None:
    """Whatever a saliency method does inside: hooks, modes, gradients, buffers."""
    network = trained_network()
    before = state(network)
    with frozen([network]):
        network.train()
        network.requires_grad_(True)
        network(torch.rand(8, 3, 8, 8)).sum().backward()  # batch statistics, gradients
        network[0].register_forward_hook(lambda module, inputs, output: output * 0)
        network[0].register_full_backward_hook(lambda module, into, out: None)
        network[1].running_mean = torch.zeros(4)
        network[1].num_batches_tracked.add_(7)
        network[5]._forward_hooks.clear()
    assert state(network) == before
    assert not network[0]._backward_hooks
    assert network[0]._is_full_backward_hook is None


def test_without_gradients_there_are_none_afterwards() -> None:
    layer = nn.Linear(2, 1)
    with frozen([layer]):
        layer.weight.grad = torch.ones_like(layer.weight)
    assert layer.weight.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_moved_and_brought_back() -> None:
    network = trained_network()
    before = state(network)
    with frozen([network], torch.device("cuda")):
        assert {parameter.device.type for parameter in network.parameters()} == {"cuda"}
        assert {buffer.device.type for buffer in network.buffers()} == {"cuda"}
    assert state(network) == before


def test_brought_back_when_the_move_fails() -> None:
    network = trained_network()
    before = state(network)
    with (
        pytest.raises(RuntimeError, match="incompatible tensor type"),
        frozen([network], torch.device("meta")),
    ):
        pytest.fail("parameters cannot be evaluated on the meta device")
    assert state(network) == before


def test_train_is_not_called() -> None:
    """Adapters that merge their weights when train() is called must not notice."""

    class Adapter(nn.Linear):
        def train(self, mode: bool = True) -> "Adapter":
            self.switched = True
            return super().train(mode)

    adapter = Adapter(2, 1)
    with frozen([adapter]):
        assert not adapter.training
    assert adapter.training
    assert not hasattr(adapter, "switched")


def test_shared_submodules_and_nesting() -> None:
    shared = nn.Linear(2, 2)
    first, second = nn.Sequential(shared, nn.Dropout()), nn.Sequential(shared)
    second.eval()
    flags = [module.training for module in (first, first[1], second, shared)]
    with frozen([first, second]), frozen([first]):
        assert not shared.training
    assert [module.training for module in (first, first[1], second, shared)] == flags


def test_scripted_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    with frozen([scripted]):
        x = torch.ones(1, 2)
        assert torch.equal(scripted(x), scripted(x))
    assert all(module.training for module in scripted.modules())


def test_the_modules_within_a_callable() -> None:
    layer, other = nn.Linear(2, 1), nn.Linear(2, 1)

    class Ensemble:
        def __init__(self) -> None:
            self.members = [layer, other]

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return sum(member(images) for member in self.members)

    def plain(images: torch.Tensor, model: nn.Module) -> torch.Tensor:
        return model(images)

    decorated = torch.no_grad()(lambda images: layer(images))
    ensemble = Ensemble()
    assert modules_within(layer) == [layer]
    assert modules_within(lambda images: layer(images)) == [layer]
    assert modules_within(lambda images: GLOBAL(images)) == [GLOBAL]
    assert modules_within(functools.partial(plain, model=layer)) == [layer]
    assert modules_within(layer.forward) == [layer]
    assert modules_within(decorated) == [layer]
    assert modules_within(ensemble) == [layer, other]
    assert modules_within(ensemble.__call__) == [layer, other]
    assert modules_within(lambda images: ensemble(images)) == [layer, other]
    assert modules_within(nn.Sequential(layer)) != [layer]  # the outermost module alone
    assert modules_within(abs) == []


def test_a_closure_over_nothing_yet() -> None:
    def build() -> list[nn.Module]:
        def evaluate(images: torch.Tensor) -> torch.Tensor:
            return later(images)

        found = modules_within(evaluate)
        later = nn.Linear(2, 1)
        return found

    assert build() == []


def test_a_deep_copy_is_independent() -> None:
    network = trained_network()
    with frozen([network]):
        copied = copy.deepcopy(network)
    assert not copied.training
    assert network.training


GLOBAL = nn.Linear(2, 1)
