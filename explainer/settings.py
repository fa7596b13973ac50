"""What may be asked of ``explain`` and ``explain_many``: every option checked before any work is done."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from explainer.checks import Thresholds
from explainer.checks.identity import Identity
from explainer.errors import OptionError
from explainer.frozen import modules_within
from explainer.saliency.methods import require_methods
from explainer.storage import sha256, state_sha256
from explainer.target import Target, TargetSpec
from explainer.walks import ClusterWalk, EvolutionWalk, GradientWalk, LinearWalk, Walk
from explainer.walks.base import require_levels

__all__ = ["WALKS", "Levels", "Mask", "Settings", "walk_record"]

Levels = Sequence[float] | Tensor | np.ndarray
Mask = Tensor | np.ndarray

WALKS: dict[str, Callable[["Settings"], Walk]] = {
    "gradient": lambda settings: GradientWalk(sparsity=settings.sparsity),
    "linear": lambda settings: LinearWalk(),
    "evolution": lambda settings: EvolutionWalk(sparsity=settings.sparsity, seed=settings.seed),
}
"""Walks by name. The conditional walk, which has a head to fit, is passed as an object."""

WITHOUT_GRADIENT = "evolution"
"""The walk of a classifier that has no gradient, where the gradient walk was asked for by name."""

_ANY_VALUE = Target(0, None, "value", None, measure="value")
"""Before the target is known, levels must be numbers."""


@dataclass(frozen=True)
class Settings:
    """The options of a call, all of them valid.

    Attributes:
        target: What to walk to; None for what the classifier says of the image.
        levels: Levels to walk to; None for those of the target.
        walk: A walk, or the name of one.
        detail: Strength of the carried detail, 0 to 1.
        saliency: Names of the maps to make, of :data:`explainer.saliency.METHODS`.
        thresholds: Where checks turn from pass to limit to fail.
        seed: Of everything drawn at random.
        allow: Where images may change, ``(H, W)`` from 0 to 1; everywhere if None.
        preserve: Where they may not, likewise; nowhere if None.
        sparsity: Share of the code's dimensions that stay still.
        diverse: Number of different explanations of each image.
        identity: Who is who, for the check that the frames keep it; None for that of the generator, if any.
        fidelity: Whether pixels are replaced in the order of each map.
        thorough: Whether checks are made that cost about as much as the walk.
        along: Named axes to walk along, and nowhere else; everywhere if empty.
        lock: Named axes not to walk along.
        towards: A cluster of the generator to walk to, by name or number.

    Raises:
        OptionError: An option outside its range.
    """

    target: TargetSpec = None
    levels: Levels | None = None
    walk: str | Walk = "gradient"
    detail: float = 1.0
    saliency: Sequence[str] = ("difference",)
    thresholds: Thresholds = field(default_factory=Thresholds)
    seed: int = 0
    allow: Mask | None = None
    preserve: Mask | None = None
    sparsity: float = 0.0
    diverse: int = 1
    identity: Identity | None = None
    fidelity: bool = False
    thorough: bool = False
    along: Sequence[str] = ()
    lock: Sequence[str] = ()
    towards: str | int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.walk, Walk) and self.walk not in WALKS:
            raise OptionError(
                "walk", "is not known", received=self.walk,
                remedy=f"Choose one of {', '.join(WALKS)}, or pass a Walk: ConditionalWalk.fit makes one.",
            )  # fmt: skip
        if self.sparsity and self.walk not in ("gradient", "evolution"):
            raise OptionError(
                "sparsity", "is an option of the gradient and the evolution walk", received=self.walk,
                remedy='Leave it out, or pass it to the walk: GradientWalk(sparsity=.5).',
            )  # fmt: skip
        if not isinstance(self.diverse, int) or self.diverse < 1:
            raise OptionError(
                "diverse", "must be a whole number, at least 1", received=self.diverse, remedy="Try 3."
            )
        if self.levels is not None:
            require_levels(self.levels, _ANY_VALUE)
        if not isinstance(self.detail, int | float) or not 0 <= self.detail <= 1:
            raise OptionError(
                "detail", "must lie in [0, 1]", received=self.detail, remedy="1 carries all detail."
            )
        if not isinstance(self.thresholds, Thresholds):
            raise OptionError(
                "thresholds", "must be a Thresholds", received=type(self.thresholds).__name__,
                remedy="Pass for example Thresholds(level_error=.01).",
            )  # fmt: skip
        object.__setattr__(self, "saliency", require_methods(self.saliency))
        for name in ("fidelity", "thorough"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(
                    name, "must be True or False", received=getattr(self, name), remedy="Pass True."
                )
        if self.fidelity and not self.saliency:
            raise OptionError(
                "fidelity", "needs the map of at least one method", received=f"saliency={self.saliency}",
                remedy='Pass for example saliency=("difference",).',
            )  # fmt: skip
        for argument in ("along", "lock"):
            given = getattr(self, argument)
            if isinstance(given, str) or not all(isinstance(name, str) for name in given):
                raise OptionError(
                    argument, "must be a list of names of axes", received=given,
                    remedy='Pass for example ["nucleus size"].',
                )  # fmt: skip
            object.__setattr__(self, argument, tuple(given))
        if (self.along or self.lock) and self.sparsity:
            raise OptionError(
                "sparsity", "holds dimensions still, which along and lock need to move together",
                received=self.sparsity, remedy="Ask for one of them.",
            )  # fmt: skip
        if self.towards is not None and (self.along or self.lock or self.walk != "gradient"):
            raise OptionError(
                "towards", "says the way to go, and so do along, lock and walk", received=self.towards,
                remedy="Leave the others out.",
            )  # fmt: skip
        if self.identity is not None and not isinstance(self.identity, Identity):
            raise OptionError(
                "identity", "must be an Identity", received=type(self.identity).__name__,
                remedy="Identity(embedding) is one; calibrate_identity gives its cosines a meaning.",
            )  # fmt: skip

    def levels_for(self, target: Target) -> Tensor:
        """The levels ``(L,)`` asked for, ascending, or the default ones of the target."""
        return require_levels(target.default_levels if self.levels is None else self.levels, target)

    def walker(self, *, differentiable: bool) -> tuple[Walk, tuple[str, ...]]:
        """The walk to take with a classifier that has a gradient or has none, and what was assumed for it."""
        if self.towards is not None:
            return ClusterWalk(self.towards), ()
        if isinstance(self.walk, Walk):
            return self.walk, ()
        if self.walk == "gradient" and not differentiable:
            return WALKS[WITHOUT_GRADIENT](self), (
                f"The classifier has no gradient: it was walked with the {WITHOUT_GRADIENT} walk instead, "
                "which asks it for scores alone.",
            )
        return WALKS[self.walk](self), ()

    def record(self) -> dict[str, Any]:
        """The options of every walk as plain values."""
        return {
            "detail": self.detail,
            "saliency": list(self.saliency),
            "seed": self.seed,
            "diverse": self.diverse,
            "allow": _mask_record(self.allow),
            "preserve": _mask_record(self.preserve),
            "identity": _identity_record(self.identity),
            "fidelity": self.fidelity,
            "thorough": self.thorough,
            **({"along": list(self.along)} if self.along else {}),
            **({"lock": list(self.lock)} if self.lock else {}),
            **({"towards": self.towards} if self.towards is not None else {}),
        }

    def whole_record(self) -> dict[str, Any]:
        """All that was asked for, as plain values: what tells one call from another."""
        target = list(self.target) if isinstance(self.target, tuple | list) else self.target
        return {
            **self.record(),
            "target": target,
            "levels": None if self.levels is None else require_levels(self.levels, _ANY_VALUE).tolist(),
            "sparsity": self.sparsity,
            "walk": walk_record(self.walk) if isinstance(self.walk, Walk) else self.walk,
            "thresholds": asdict(self.thresholds),
        }


def walk_record(walk: Walk) -> dict[str, Any]:
    """A walk's name and its options."""
    return {"walk": walk.name, **walk.options()}


def _identity_record(identity: Identity | None) -> dict[str, Any] | None:
    """What tells one identity from another, as far as its reference and the modules it evaluates go."""
    if identity is None:
        return None
    mean = b"" if identity.mean is None else identity.mean.detach().cpu().double().numpy().tobytes()
    known = repr((identity.genuine, identity.impostor, identity.pairs, identity.size)).encode()
    states = [state_sha256(module.state_dict()) for module in modules_within(identity.embedding)]
    return {
        "name": identity.name,
        "calibrated": identity.calibrated,
        "sha256": sha256(mean + known + "".join(states).encode()),
    }


def _mask_record(mask: Mask | None) -> str | None:
    """What tells one mask from another."""
    if mask is None:
        return None
    values = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask, dtype=np.float32)
    return sha256(str(values.shape).encode() + values.tobytes())
