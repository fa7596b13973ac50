r"""What a classifier looks at, as a distance of images that a generator can be trained on.

The features are the inputs of the last linear layer that the classifier evaluates (its outputs, if it has
none), each divided by its standard deviation over training images. A reconstruction that keeps them keeps
what the classifier reads: the gap between its answers for an image and for what the generator makes of it
becomes small. The classifier is frozen, and not saved with the generator.

Feature losses: Johnson, Alahi & Fei-Fei 2016 (arXiv 1603.08155); for counterfactuals of one classifier they
make the generator partial to it, so a surrogate's agreement should be looked at beside them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from explainer.classifier import Classifier
from explainer.frozen import modules_within

__all__ = ["Perception", "perception"]

Perception = Callable[[Tensor], Tensor]


@contextmanager
def perception(classifier: Classifier | nn.Module, images: Iterable[Tensor]) -> Iterator[Perception]:
    """A function from images ``(N, C, H, W)`` in [0, 1] to standardised features ``(N, F)``.

    Inside this context the classifier is frozen and has hooks; afterwards it is as it was found.

    Args:
        classifier: The classifier; a module is taken as one with default preprocessing.
        images: Batches of training images in [0, 1].

    >>> head = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    >>> images = torch.tensor([[0.0, 1.0, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5]]).view(2, 1, 2, 2)
    >>> with perception(head, [images]) as perceive:
    ...     perceive(images)[:, :2]
    tensor([[0., 2.],
            [2., 0.]])
    """
    owner = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
    layers = [
        layer
        for module in modules_within(owner.model)
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    read: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[:] = [inputs[0]]  # the last one evaluated stays

    def features(images: Tensor) -> Tensor:
        read.clear()
        outputs = owner.raw(images)
        found = read[0] if read else outputs
        read.clear()
        return found.flatten(1).float().to(images.device)

    with owner.frozen():
        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        try:
            with torch.no_grad():
                known = torch.cat([features(batch) for batch in images])
            scale = known.std(dim=0, correction=0)
            scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
            yield lambda images: features(images) / scale
        finally:
            for hook in hooks:
                hook.remove()
