r"""Which state of a training phase is kept: the best by the evidence bound of images that were set aside.

.. math:: b = -\log p(x|z) + \beta\,\mathrm{KL}[q(z|x)\,\|\,p(z)]

in nats per image, less is better; with :math:`\beta = 1` it is the negative evidence bound. Every twentieth
of the budget, of steps or of time, the averaged weights are measured on the same images with the same noise.
The weight :math:`\beta` is the phase's final one from the first measurement on, so that states within the KL
ramp compare with later ones. Nothing else belongs to the bound: no information of an InfoMax term, which
grows while the images get worse, and no optional distance.

A measurement of n images costs about n / (3 B) steps of B images (a step also goes backwards, twice the
work of going forwards), so measurements are at least as far apart as keeps them below a fortieth of the time.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from explainer.generators.base import as_unit_interval

__all__ = ["MEASURED_IMAGES", "Selection"]

MEASURED_IMAGES = 256
MARKS = 20  # measurements of a whole budget
COST = 0.025  # of the time, at most
TOGETHER = 64

# From images (N, C, H, W) in [0, 1] and a source of noise to the named terms of the loss.
Terms = Callable[[Tensor, torch.Generator], Mapping[str, Tensor]]


class Selection:
    """What has been measured of a phase, and its best state.

    Args:
        images: ``(N, C, H, W)``, stored as :class:`explainer.generators.feed.Feed` gives them; N at least 2.
        beta: Final weight of the KL term.
        patience: Measurements without an improvement after which the phase ends; None never ends it.
        batch_size: Images of a training step, which decides how often measuring is cheap.
        seed: Of the noise.
    """

    def __init__(
        self, images: Tensor, *, beta: float, patience: int | None, batch_size: int, seed: int
    ) -> None:
        self.images, self.beta, self.patience, self.seed = images, beta, patience, seed
        self.gap = math.ceil(len(images) / (3 * batch_size * COST))
        self.mark = 0
        self.measured_at = 0
        self.since_best = 0
        self.best = math.inf
        self.best_step = 0
        self.best_state: dict[str, Tensor] | None = None

    def due(self, progress: float, step: int) -> bool:
        """Whether to measure after ``step`` steps, where ``progress`` (0 to 1) of the budget is used up."""
        return int(MARKS * progress) > self.mark and step - self.measured_at >= self.gap

    @torch.no_grad()
    def measure(self, module: nn.Module, terms: Terms, *, progress: float, step: int) -> dict[str, float]:
        """Measure a module as it is, and keep a copy of its state if it is the best so far.

        Args:
            module: What is trained in the phase.
            terms: The named terms of the loss of images, ``reconstruction_nats`` and ``kl_nats`` among them.
            progress: Share of the budget that is used up.
            step: Steps taken.

        Returns:
            ``held_out_nats``, the bound, and its two parts; nothing where the loss has no such terms: then
            the last state is kept.
        """
        self.mark, self.measured_at = int(MARKS * progress), step
        device = next(module.parameters()).device
        noise = torch.Generator(device).manual_seed(self.seed)
        sums = {"reconstruction_nats": 0.0, "kl_nats": 0.0}
        training = [each for each in module.modules() if each.training]
        module.eval()
        try:
            for part in self.images.tensor_split(math.ceil(len(self.images) / TOGETHER)):
                found = terms(as_unit_interval(part).to(device), noise)
                if not sums.keys() <= found.keys():
                    return {}
                for name in sums:
                    sums[name] += float(found[name]) * len(part) / len(self.images)
        finally:
            for each in training:
                each.training = True
        bound = sums["reconstruction_nats"] + self.beta * sums["kl_nats"]
        self.since_best += 1
        if bound < self.best:
            self.best, self.best_step, self.since_best = bound, step, 0
            self.best_state = {
                name: value.detach().cpu().clone() for name, value in module.state_dict().items()
            }
        return {"held_out_nats": bound, **{f"held_out_{name}": value for name, value in sums.items()}}

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since_best >= self.patience

    def restore(self, module: nn.Module) -> None:
        """Give a module its best state back."""
        if self.best_state is not None:
            module.load_state_dict(self.best_state)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "mark": self.mark, "measured_at": self.measured_at, "since_best": self.since_best,
            "best": self.best, "best_step": self.best_step, "best_state": self.best_state,
            "exhausted": self.exhausted,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        for name in state.keys() - {"exhausted"}:
            setattr(self, name, state[name])

    def __deepcopy__(self, _: object) -> "Selection":
        """Itself: who copies a loop to average its weights needs no second one."""
        return self
