r"""Is there a generative model at all behind the frames? Faults that carried detail would hide.

* A decoder that does not answer to its code says nothing. Its response in channel c is the standard deviation
  over random codes, averaged over pixels; a dead channel has none.
* A code that holds everything compresses nothing, and walking it is an adversarial attack on the pixels.
  White noise :math:`n` shows it: :math:`\|\mathrm{bare}(x+n)-\mathrm{bare}(x)\| / \|n\|` is 1 for an
  identity and
  :math:`\sqrt{D / P}` for a projection of P pixels on D dimensions.
* Encoder and decoder must speak of the same code: :math:`\|e(d(z)) - z\|` against the distance of two
  random codes, :math:`\sqrt{2 \sum_i \sigma_i^2}`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from explainer.checks.base import Check, Thresholds, status_above
from explainer.checks.draws import image_seeds, normal_like
from explainer.checks.walked import Walked
from explainer.generators.base import Generator

__all__ = ["channel_names_of", "channel_response", "code_cycle", "noise_passed", "responding"]

RANDOM_CODES = 2
"""Enough to see whether a channel moves at all; each costs a tenth of a step of the walk."""


@torch.no_grad()
def channel_response(generator: Generator, *, codes: int = RANDOM_CODES, seed: int = 0) -> Tensor:
    """How much each channel changes from one random code to another, ``(C,)`` in normalised units."""
    random = torch.randn(codes, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    z = generator.latent_mean + generator.latent_std * random.to(generator.latent_mean)
    return generator.normalise(generator.decode(z)).std(dim=0).mean(dim=(1, 2))


@torch.no_grad()
def noise_passed(
    generator: Generator,
    small: Tensor,
    bare: Tensor | None = None,
    *,
    noise: float = Thresholds.probing_noise,
    batch_size: int = 128,
    seed: int = 0,
) -> Tensor:
    """Share ``(N,)`` of white noise on images ``(N, C, H, W)`` that ``bare`` lets through.

    Args:
        generator: The generator.
        small: Images at its size.
        bare: ``generator.bare(small)``, if it is at hand.
        noise: Standard deviation of the noise in normalised units.
        batch_size: Images evaluated at once.
        seed: Of the noise, which is of each image its own.
    """
    before = generator.bare(small) if bare is None else bare
    added = noise * normal_like(small, image_seeds(small, seed=seed))
    given = generator.denormalise(generator.normalise(small) + added)
    after = torch.cat([generator.bare(part) for part in given.split(batch_size)])
    moved = (generator.normalise(after) - generator.normalise(before)).flatten(1).norm(dim=1)
    return moved / added.flatten(1).norm(dim=1)


def responding(
    walked: Sequence[Walked], thresholds: Thresholds, *, seed: int = 0
) -> list[tuple[Check, Check]]:
    """Does every channel answer to the code, and does the code compress? Two checks of every walk."""
    generator, scene = walked[0].generator, walked[0].scene
    small = scene.small[torch.tensor([each.row for each in walked])]
    bare = torch.stack([each.bare.image for each in walked]).to(small)
    response = channel_response(generator, seed=seed)
    spread = generator.normalise(small).std(dim=(2, 3)).clamp_min(thresholds.least_spread)
    passed = noise_passed(
        generator, small, bare, noise=thresholds.probing_noise, batch_size=scene.batch_size, seed=seed
    )
    return [
        (_decoder(generator, shares, thresholds), _compression(generator, share, thresholds))
        for shares, share in zip((response / spread).tolist(), passed.tolist(), strict=True)
    ]


def _decoder(generator: Generator, share: Sequence[float], thresholds: Thresholds) -> Check:
    """The check of one image; what a channel changes by, as a share of the image's own spread."""
    names = channel_names_of(generator)
    dead = [name for name, each in zip(names, share, strict=True) if not each > thresholds.response_fail]
    values: dict[str, float | str] = {
        f"response {name}": each for name, each in zip(names, share, strict=True)
    }
    if dead:
        which = "every channel" if len(dead) == len(names) else ", ".join(dead)
        sentence = (
            f"The generator's decoder does not answer to its code in {which}: from one random code to "
            "another it "
            f"changes by less than {thresholds.response_fail:.0%} of the image's own spread."
        )
        return Check("decoder", "fail", sentence, values)
    sentence = (
        "Every channel answers to the code: from one random code to another the least moving one changes by "
        f"{min(share):.0%} of the image's own spread."
    )
    return Check("decoder", "pass", sentence, values)


def _compression(generator: Generator, passed: float, thresholds: Thresholds) -> Check:
    status = status_above(passed, thresholds.noise_passed_limit, thresholds.noise_passed_fail)
    said = {
        "pass": "The code compresses",
        "limit": "The code compresses little",
        "fail": "The code holds anything, so that a walk can be an adversarial attack on the pixels",
        "info": "",
    }[status]
    if passed > thresholds.noise_grows:
        said = "The code hangs on invisible noise"
    return Check(
        "compression",
        status,
        f"{said}: {passed:.0%} of white noise on the image passes through the generator.",
        {"noise passed": passed, "dimensions": float(generator.latent_dim)},
    )


@torch.no_grad()
def code_cycle(walked: Sequence[Walked], thresholds: Thresholds) -> list[Check]:
    """Is the code of an image's ``bare`` the code of the image?"""
    generator, scene = walked[0].generator, walked[0].scene
    bare = torch.stack([each.bare.image for each in walked]).to(scene.small)
    z = torch.stack([each.z for each in walked])
    again = torch.cat([generator.encode(part) for part in bare.split(scene.batch_size)])
    strangers = (2 * generator.latent_std.square().sum()).sqrt()
    checks = []
    for distance in ((again - z).norm(dim=1) / strangers).tolist():
        status = status_above(distance, thresholds.code_cycle_limit, thresholds.code_cycle_fail)
        sentence = (
            f"The code of the reconstruction lies {distance:.2f} from that of the image, in distances of two "
            "random codes"
        )
        if status == "fail":
            sentence += ": encoder and decoder do not speak of the same code"
        checks.append(Check("code cycle", status, f"{sentence}.", {"distance": distance}))
    return checks


def channel_names_of(generator: Generator) -> tuple[str, ...]:
    """The names of the channels, numbered where there are none."""
    return generator.channel_names or tuple(f"channel {c}" for c in range(generator.shape[0]))
