"""Does the walk's change survive what nobody can see, and does it come from what the code holds?

* Stability: faint noise and JPEG are put on an end of the walk, a shift of one pixel on end and image alike
  (where it changes the image by less than half of the image's own variance).
  What they leave of the walk's move of the score, or of the stretch its levels span if that is shorter, is
  the kept share.
* Detail swap: images of one's code and another's carried detail. If the score follows the detail's owner, the
  classifier reads what the code does not hold, and the walk cannot show it.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from explainer.checks.base import UNMOVED, Check, Thresholds, status_above, status_below
from explainer.checks.ends import Ends
from explainer.checks.walked import Walked
from explainer.errors import OptionError
from explainer.generators.base import Generator
from explainer.metrics import cluster_bootstrap
from explainer.walks.scene import Scene

__all__ = ["detail_swap", "jpeg", "noisy", "shifted", "stability"]

NOISE = 0.02
COARSE = 0.5
SPAN = 4.0
QUALITY = 90
FEWEST_PAIRED = 20
MOST_PAIRED = 100
SHIFTS = 2


def noisy(generator: Generator, images: Tensor, *, seed: int = 0) -> Tensor:
    """Images with white noise of 2 % of each channel's own range."""
    noise = NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    return generator.denormalise(generator.normalise(images) + noise).clamp(0, 1)


def shifted(images: Tensor) -> Tensor:
    """Images moved by one pixel down and to the right, the border repeated."""
    moved = torch.cat([images[..., :1, :], images[..., :-1, :]], dim=-2)
    return torch.cat([moved[..., :1], moved[..., :-1]], dim=-1)


def jpeg(generator: Generator, images: Tensor, *, quality: int = QUALITY) -> Tensor:
    """Images written as JPEG and read again: RGB as such, other channels one by one in their own range."""
    raw = generator.normalise(images)
    # The range reaches as far as the pictures do: clipping would be another change than JPEG's.
    low = raw.amin(dim=(0, 2, 3), keepdim=True).clamp_max(0)
    span = raw.amax(dim=(0, 2, 3), keepdim=True).clamp_min(1) - low
    units = ((raw - low) / span * 255).round().to(torch.uint8).cpu()
    colour = images.shape[1] == 3 and generator.channel_names is None
    pictures = units.permute(0, 2, 3, 1) if colour else units.flatten(0, 1)
    read = []
    for picture in pictures.numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="JPEG", quality=quality)
        read.append(torch.from_numpy(np.array(Image.open(file))))
    stacked = torch.stack(read).to(images) / 255
    back = stacked.permute(0, 3, 1, 2) if colour else stacked.view(images.shape)
    return generator.denormalise(back * span + low).clamp(0, 1)


@torch.no_grad()
def stability(walked: Sequence[Walked], ends: Ends, thresholds: Thresholds, *, seed: int = 0) -> list[Check]:
    """Kept share of both ends under faint noise, JPEG and a shift of one pixel; the worst of them counts."""
    generator, count = ends.scene.generator, len(ends)
    if not count:
        said = UNMOVED
        return [Check("stability", "info", said, {}) for _ in walked]
    moved_images = shifted(ends.images)
    changed = [
        noisy(generator, ends.frames, seed=seed),
        noisy(generator, ends.frames, seed=seed + 1),
        jpeg(generator, ends.frames),
        shifted(ends.frames),
        moved_images,
    ]
    noise, again, compressed, moved, moved_start = ends.score(torch.cat(changed)).split(count)
    move = ends.scores - ends.start
    scale = _scales(walked, ends)
    change = {
        "noise": torch.maximum((noise - ends.scores).abs(), (again - ends.scores).abs()),
        "JPEG": (compressed - ends.scores).abs(),
        "shift": (moved - moved_start - move).abs(),
    }
    # A score that is not finite keeps nothing.
    kept = {name: (1 - each / scale).nan_to_num(0.0, 0.0, 0.0) for name, each in change.items()}
    # On an image of fine grain a shift is no small change, and its score may change with it.
    units = generator.normalise(ends.images)
    grain = (generator.normalise(moved_images) - units).square().mean(dim=(1, 2, 3))
    grain = grain / units.var(dim=(2, 3)).mean(dim=1).clamp_min(1e-9)
    kept["shift"][(grain > COARSE).cpu()] = torch.nan
    checks = []
    for image in range(len(walked)):
        mine = ends.image == image
        if not bool(mine.any()):
            checks.append(Check("stability", "info", UNMOVED, {}))
            continue
        worst = {name: float(share[mine].min()) for name, share in kept.items()}
        worst = {name: share for name, share in worst.items() if not math.isnan(share)}
        weakest = min(worst, key=lambda name: worst[name])
        status = status_below(worst[weakest], thresholds.stable_limit, thresholds.stable_fail)
        said = (
            f"Under {_PHRASES[weakest]} the ends keep {max(0.0, worst[weakest]):.0%} of their change of score"
        )
        if status == "fail":
            said += ": the classifier is brittle, its answer hangs on what nobody can see"
        values: dict[str, float | str] = {f"kept under {name}": share for name, share in worst.items()}
        checks.append(Check("stability", status, f"{said}.", values))
    return checks


def _scales(walked: Sequence[Walked], ends: Ends) -> Tensor:
    """What a change of score is held against, ``(E,)``: the walk to the far end, but no more than its levels.

    A change as large as the stretch of the levels turns one end into the other, however far away the image
    is.
    """
    moved = (ends.scores - ends.start).abs()
    scales = torch.zeros(len(walked), dtype=torch.float64)
    for image, change in zip(ends.image.tolist(), moved.tolist(), strict=True):
        scales[image] = max(change, float(scales[image]))
    spans = torch.tensor([float(np.ptp(each.table["score"])) for each in walked], dtype=torch.float64)
    return torch.minimum(scales, spans.clamp_min(SPAN))[ends.image]


_PHRASES = {
    "noise": "noise of 2 % of the range",
    "JPEG": f"JPEG of quality {QUALITY}",
    "shift": "a shift of one pixel",
}


@torch.no_grad()
def detail_swap(scene: Scene, thresholds: Thresholds, *, shifts: int = SHIFTS, seed: int = 0) -> Check:
    """Correlation of the score of (code of i, detail of j) with the score of image j, over pairs.

    Every image gives its detail to ``shifts`` others. The interval resamples the givers as a whole.

    Args:
        scene: At least 20 images, before any walk, with carried detail; a hundred of them are drawn.
        thresholds: See :class:`Thresholds`.
        shifts: Receivers of each detail.
        seed: Of the pairing.

    Raises:
        OptionError: Fewer images.
    """
    count = len(scene.images)
    if count < FEWEST_PAIRED:
        raise OptionError(
            "scene", f"must hold at least {FEWEST_PAIRED} images to swap details between", received=count,
            remedy="Pass more images, or leave the swap out.",
        )  # fmt: skip
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:MOST_PAIRED]
    givers = order.repeat(shifts)
    takers = torch.cat([order.roll(shift) for shift in range(1, shifts + 1)])
    score = scene.score(scene.z[takers], givers).double().cpu()
    own = scene.score0.double().cpu()
    pairs = np.stack([score.numpy(), own[givers].numpy()], axis=1)
    if np.ptp(pairs[:, 0]) == 0 or np.ptp(pairs[:, 1]) == 0:
        return Check("detail swap", "info", "Not measured: the classifier says the same of every image.", {})
    # Ranks: one saturated image would decide the correlation otherwise.
    ranks = np.stack([stats.rankdata(column) for column in pairs.T], axis=1)
    interval = cluster_bootstrap(
        ranks,
        givers.numpy(),
        statistic=lambda rows: float(np.corrcoef(rows.T)[0, 1]),
        resamples=500,
        seed=seed,
    )
    status = status_above(interval.low, thresholds.swap_limit, thresholds.swap_fail)
    said = (
        f"With one image's code and another's detail, the score follows the owner of the detail with a rank "
        f"correlation of {interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}] over "
        f"{len(pairs)} pairs"
    )
    if status != "pass":
        said += ": the classifier reads what the code does not hold, which the walk cannot show"
    values: dict[str, float | str] = {
        "correlation": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "pairs": float(len(pairs)),
    }
    return Check("detail swap", status, f"{said}.", values)
