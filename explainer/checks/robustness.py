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
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from explainer.checks.base import UNMOVED, Check, Thresholds, status_above, status_below
from explainer.checks.draws import image_seeds, normal_like
from explainer.checks.ends import Ends
from explainer.checks.walked import Walked
from explainer.errors import OptionError
from explainer.generators.base import Generator
from explainer.image import resize
from explainer.metrics import cluster_bootstrap
from explainer.walks.scene import Scene

__all__ = ["detail_swap", "jpeg", "noisy", "shifted", "stability", "swapped"]

FEWEST_PAIRED = 20
MOST_PAIRED = 100
SHIFTS = 2
NOISES = 4
"""One draw may by chance leave the score of a brittle classifier where it was."""


def noisy(
    generator: Generator, images: Tensor, seeds: Sequence[int], *, share: float = Thresholds.faint_noise
) -> Tensor:
    """Images with white noise, by default of 2 % of each channel's own range, that of each from its seed."""
    noise = share * normal_like(images, seeds)
    return generator.denormalise(generator.normalise(images) + noise).clamp(0, 1)


def shifted(images: Tensor) -> Tensor:
    """Images moved by one pixel down and to the right, the border repeated."""
    moved = torch.cat([images[..., :1, :], images[..., :-1, :]], dim=-2)
    return torch.cat([moved[..., :1], moved[..., :-1]], dim=-1)


def jpeg(generator: Generator, images: Tensor, *, quality: int = int(Thresholds.jpeg_quality)) -> Tensor:
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
    seeds = image_seeds(ends.images, seed=seed)
    changed = [
        jpeg(generator, ends.frames, quality=int(thresholds.jpeg_quality)),
        shifted(ends.frames),
        moved_images,
    ]
    for draw in range(NOISES):
        drawn = [each + draw for each in seeds]
        changed.append(noisy(generator, ends.frames, drawn, share=thresholds.faint_noise))
    compressed, moved, moved_start, *noise = ends.score(torch.cat(changed)).split(count)
    move = ends.scores - ends.start
    scale = _scales(walked, ends, thresholds.stable_span)
    change = {
        "noise": torch.stack([(each - ends.scores).abs() for each in noise]).amax(dim=0),
        "JPEG": (compressed - ends.scores).abs(),
        "shift": (moved - moved_start - move).abs(),
    }
    # A score that is not finite keeps nothing.
    kept = {name: (1 - each / scale).nan_to_num(0.0, 0.0, 0.0) for name, each in change.items()}
    # On an image of fine grain a shift is no small change, and its score may change with it.
    units = generator.normalise(ends.images)
    grain = (generator.normalise(moved_images) - units).square().mean(dim=(1, 2, 3))
    grain = grain / units.var(dim=(2, 3)).mean(dim=1).clamp_min(1e-9)
    kept["shift"][(grain > thresholds.shift_coarse).cpu()] = torch.nan
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
            f"Under {_phrase(weakest, thresholds)} the ends keep {max(0.0, worst[weakest]):.0%} "
            "of their change of score"
        )
        if status == "fail":
            said += ": the classifier is brittle, its answer hangs on what nobody can see"
        values: dict[str, float | str] = {f"kept under {name}": share for name, share in worst.items()}
        checks.append(Check("stability", status, f"{said}.", values))
    return checks


def _scales(walked: Sequence[Walked], ends: Ends, least: float) -> Tensor:
    """What a change of score is held against, ``(E,)``: the walk to the far end, but no more than its levels.

    A change as large as the stretch of the levels turns one end into the other, however far away the image
    is.
    """
    moved = (ends.scores - ends.start).abs()
    scales = torch.zeros(len(walked), dtype=torch.float64)
    for image, change in zip(ends.image.tolist(), moved.tolist(), strict=True):
        scales[image] = max(change, float(scales[image]))
    spans = torch.tensor([float(np.ptp(each.table["score"])) for each in walked], dtype=torch.float64)
    return torch.minimum(scales, spans.clamp_min(least))[ends.image]


def _phrase(done: str, thresholds: Thresholds) -> str:
    return {
        "noise": f"noise of {100 * thresholds.faint_noise:g} % of the range",
        "JPEG": f"JPEG of quality {int(thresholds.jpeg_quality)}",
        "shift": "a shift of one pixel",
    }[done]


@torch.no_grad()
def swapped(scene: Scene, change: Tensor, givers: Tensor) -> Tensor:
    """Images ``(M, C, H, W)`` with other codes and all that their own code does not hold.

    :math:`x_j + G(z_i) - G(z_j)`, without the gate of a walk's frames: between two images it would fade out
    nearly all of the detail, and with it whatever the classifier may read there.

    Args:
        scene: The images.
        change: :math:`G(z_i) - G(z_j)` at the generator's size ``(M, C, h, w)``.
        givers: Which images give the detail, ``(M,)``.
    """
    images = scene.images[givers]
    if change.shape[-2:] == images.shape[-2:]:
        return (images + change).clamp(0, 1)
    top, left, height, width = scene.region
    images[..., top : top + height, left : left + width] += resize(change, (height, width))
    return images.clamp(0, 1)


@torch.no_grad()
def detail_swap(scene: Scene, thresholds: Thresholds, *, shifts: int = SHIFTS, seed: int = 0) -> Check:
    r"""Does the score of (code of i, detail of j) follow image j in what j's ``bare`` does not say?

    The plain correlation of :math:`s(x_j + G(z_i) - G(z_j))` with :math:`s(x_j)` is told. It also counts what
    merely goes with the code, such as the sharp edges of a smile that the code holds as a blurred one. So
    what is judged is the correlation with the part of :math:`s(x_j)` that a line through :math:`s(G(z_j))`
    does not predict, all in ranks: near 0 where the code holds what the classifier reads, 1 where it holds
    nothing of it.

    Every image gives its detail to ``shifts`` others. The interval resamples the givers as a whole.

    Args:
        scene: At least 20 images, before any walk; a hundred of them are drawn.
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
    made = torch.cat([scene.generator.decode(part) for part in scene.z[order].split(scene.batch_size)])
    own = _scores(scene, scene.images[order].split(scene.batch_size))
    bare = _scores(scene, _bare_at_full_size(scene, made, order))
    score = np.concatenate(
        [_scores(scene, _swaps(scene, made.roll(shift, 0) - made, order)) for shift in range(1, shifts + 1)]
    )
    givers = order.repeat(shifts)
    finite = bool(np.isfinite(np.concatenate([score, own, bare])).all())
    if not finite or np.ptp(score) == 0 or np.ptp(own) == 0:
        why = "the classifier says the same of every image" if finite else "a score is not finite"
        return Check("detail swap", "info", f"Not measured: {why}.", {})
    # Ranks: one saturated image would decide the correlation otherwise.
    ranked, own_rank, bare_rank = (stats.rankdata(each) for each in (score, own, bare))
    beyond = np.tile(_unpredicted(own_rank, bare_rank), shifts)
    interval = cluster_bootstrap(
        np.stack([ranked, beyond], axis=1), givers.numpy(), statistic=_correlation, resamples=500, seed=seed
    )
    plain = _correlation(np.stack([ranked, np.tile(own_rank, shifts)], axis=1))
    status = status_above(interval.low, thresholds.swap_limit, thresholds.swap_fail)
    said = (
        "With one image's code and another's detail, the score follows what the code of the detail's owner "
        f"leaves out with a rank correlation of {interval.estimate:.2f} "
        f"[{interval.low:.2f}, {interval.high:.2f}] over {len(score)} pairs"
    )
    if status != "pass":
        said += ": the classifier reads what the code does not hold, which the walk cannot show"
    values: dict[str, float | str] = {
        "correlation": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "correlation with the owner's score": plain,
        "pairs": float(len(score)),
    }
    return Check("detail swap", status, f"{said}.", values)


def _scores(scene: Scene, batches: Iterable[Tensor]) -> np.ndarray:
    found = [scene.classifier.score(batch, scene.target).double().cpu() for batch in batches]
    return torch.cat(found).numpy()


def _swaps(scene: Scene, change: Tensor, givers: Tensor) -> Iterator[Tensor]:
    for some, owners in zip(change.split(scene.batch_size), givers.split(scene.batch_size), strict=True):
        yield swapped(scene, some, owners)


def _bare_at_full_size(scene: Scene, made: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """What the generator alone makes of some images, at their size; what it does not see stays."""
    top, left, height, width = scene.region
    for some, owners in zip(made.split(scene.batch_size), rows.split(scene.batch_size), strict=True):
        images = scene.images[owners]
        images[..., top : top + height, left : left + width] = resize(some, (height, width))
        yield images.clamp(0, 1)


def _unpredicted(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """What a line through ``by`` leaves of ``values``; exactly nothing where only rounding is left."""
    design = np.stack([np.ones(len(by)), by], axis=1)
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return rest if rest.std() > 1e-6 * values.std() else np.zeros_like(rest)


def _correlation(rows: np.ndarray) -> float:
    """Of two columns; 0 where one of them says nothing."""
    first, second = (rows - rows.mean(axis=0)).T
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale > 0 else 0.0
