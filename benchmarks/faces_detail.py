"""What carried detail does to the frames: none, ungated, pixels gated, pixels and latents gated.

    python benchmarks/faces_detail.py --data faces.zip

Smiling faces of the validation split (the defaults are chosen here) are walked to level .05 and serious
ones to .95. Sharpness is the power above a quarter of the sampling rate over that of the original.
The teeth that must vanish are seen by the second classifier, which was trained apart: its score at the
end of a smile, and how often it agrees.
"""

import argparse
from pathlib import Path
from typing import Any

import record
import torch
from faces_walk import deliver, levels_of, one_photograph_each, scene_of, share
from torch import Tensor

from explainer import load_classifier, load_generator
from explainer.walks import GradientWalk
from explainer.walks.base import TOLERANCE, require_levels

NEVER = 1e6
VARIANTS = {
    "none (bare frames)": {"strength": 0.0, "tau": NEVER, "latent_tau": NEVER},
    "ungated latents and pixels": {"strength": 1.0, "tau": NEVER, "latent_tau": NEVER},
    "latents, pixels gated at .03": {"strength": 1.0, "tau": 0.03, "latent_tau": NEVER},
    "pixels gated at .03, latents at .5": {"strength": 1.0, "tau": 0.03, "latent_tau": 0.5},
    "pixels gated at .05, latents at 1 (default)": {"strength": 1.0, "tau": 0.05, "latent_tau": 1.0},
}


def fine_power(images: Tensor) -> Tensor:
    """Power ``(N,)`` of frequencies above a quarter of the sampling rate, of the mean over channels."""
    spectrum = torch.fft.fft2(images.mean(dim=1)).abs().square()
    rows, columns = (torch.fft.fftfreq(size).abs() for size in images.shape[-2:])
    return spectrum[:, torch.maximum(rows[:, None], columns[None]) > 0.25].sum(dim=1)


def measure(images: Tensor, *, strength: float, tau: float, latent_tau: float) -> dict[str, Any]:
    generator, smile, second = (
        load_generator("faces"),
        load_classifier("faces/smile"),
        load_classifier("faces/smile-second"),
    )
    generator.tau, generator.latent_tau = tau, latent_tau
    levels = require_levels([0.05, 0.95])
    scene = scene_of(generator, smile, images, strength)
    frames = deliver(scene, GradientWalk()(scene, levels).latents)
    smiling = scene.score0 > 0
    ends = torch.where(smiling[:, None, None, None], frames[:, 0], frames[:, 1])
    achieved, other = (levels_of(network, ends[:, None])[:, 0].double() for network in (smile, second))
    wanted = torch.where(smiling, levels[0], levels[1])
    return {
        "reached": share((achieved - wanted).abs() <= TOLERANCE),
        "second classifier on the requested side": share((other > 0.5) != smiling),
        "its score where a smile was taken away, median": float(torch.logit(other[smiling]).median()),
        "its score where a smile was given, median": float(torch.logit(other[~smiling]).median()),
        "L1 to the original, median": float((ends - images).abs().mean(dim=(1, 2, 3)).median()),
        "fine power over the original's, median": float((fine_power(ends) / fine_power(images)).median()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the zip of faces")
    parser.add_argument("--people", type=int, default=150)
    options = parser.parse_args()
    images, _ = one_photograph_each(options.data, "val", options.people)
    table = {name: measure(images, **variant) for name, variant in VARIANTS.items()}
    print(record.write("faces_detail", {"split": "val", "people": len(images), "variants": table}))


if __name__ == "__main__":
    main()
