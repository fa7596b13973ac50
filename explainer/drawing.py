"""Factors of variation, and the sprites and cells drawn from a table of them.

The renderers are deterministic functions of the table (texture and camera noise come from its
``texture`` column), so changing one column and rendering again changes that factor only.

Sprites follow dSprites (Matthey et al. 2017), with shapes of equal area and analytic soft edges.
Coordinates are fractions of the frame, x to the right and y down; angles are radians, anticlockwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explainer.errors import OptionError

__all__ = [
    "CELL_CHANNELS",
    "CELL_FACTORS",
    "Factor",
    "Rendering",
    "SPRITE_FACTORS",
    "check_whole",
    "render_cells",
    "render_sprites",
]

Rendering = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Factor:
    """One factor of variation with a uniform distribution.

    Args:
        low: Smallest value (continuous factors).
        high: Largest value (continuous factors).
        levels: The values of a discrete factor, equally likely and in ascending order.
        region: The mask that holds every pixel the factor can change, up to soft edges (for a factor
            that moves an outline: the masks before and after, together); empty for the whole frame.

    >>> SPRITE_FACTORS["shade"].quantile(np.array([0.0, 0.25, 1.0])).tolist()
    [0.3, 0.475, 1.0]
    >>> SPRITE_FACTORS["shape"].is_high(np.array(["square", "heart"])).tolist()
    [False, True]
    """

    low: float = 0.0
    high: float = 1.0
    levels: tuple = ()
    region: str = ""

    @property
    def middle(self) -> float:
        """The quantile at and above which a value is high."""
        return -(-len(self.levels) // 2) / len(self.levels) if self.levels else 0.5

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Values at the quantiles ``u`` in [0, 1]."""
        u = np.asarray(u, dtype=np.float64)
        if not self.levels:
            return self.low + (self.high - self.low) * u
        # The nudge keeps k / levels in level k where the product is rounded down.
        index = np.floor(u * len(self.levels) + 1e-12).astype(np.int64)
        return np.asarray(self.levels)[np.minimum(index, len(self.levels) - 1)]

    def is_high(self, values: np.ndarray) -> np.ndarray:
        """Which ``values`` lie in the upper half of the distribution, as booleans."""
        values = np.asarray(values)
        upper = self.levels[-(-len(self.levels) // 2) :]
        if upper and isinstance(upper[0], str):
            return np.isin(values.astype(str), upper)
        return values >= (upper[0] if upper else self.quantile(np.array(0.5)))


_MARK = Factor(levels=(False, True), region="batch_mark")
_TURN = 2 * float(np.pi)

SPRITE_FACTORS: Mapping[str, Factor] = MappingProxyType(
    {
        "shape": Factor(levels=("square", "ellipse", "heart"), region="sprite"),
        "scale": Factor(0.14, 0.30, region="sprite"),  # square root of the area
        "orientation": Factor(0.0, _TURN, region="sprite"),
        "x": Factor(0.3, 0.7, region="sprite"),
        "y": Factor(0.3, 0.7, region="sprite"),
        "shade": Factor(0.3, 1.0, region="sprite"),
        "batch_mark": _MARK,
    }
)

CELL_FACTORS: Mapping[str, Factor] = MappingProxyType(
    {
        "nucleus_size": Factor(0.10, 0.17, region="nucleus"),  # radius of the circle of equal area
        "nucleus_intensity": Factor(0.25, 0.55, region="nucleus"),
        "cytoplasm_intensity": Factor(0.2, 0.5),  # its haze reaches beyond the cell
        "spots": Factor(levels=tuple(range(2, 10)), region="spots"),  # count
        "elongation": Factor(1.0, 1.8),  # long over short axis
        "illumination_tilt": Factor(-0.3, 0.3),  # brightness at the right edge, relative to the centre
        "stain_gain": Factor(0.8, 1.2),
        "batch_mark": _MARK,
        "orientation": Factor(0.0, _TURN),
        "x": Factor(0.47, 0.53),
        "y": Factor(0.47, 0.53),
    }
)

CELL_CHANNELS = ("nucleus", "cytoplasm", "spots", "membrane", "mitochondria")

_SMALLEST = 16
_CELL_RADIUS = 0.30
_SPOT_WIDTH = 0.016
_MOST_SPOTS = 64
_GRID = 48  # texture is drawn on this grid and interpolated, so that it does not depend on the size


def render_sprites(
    factors: pd.DataFrame, *, size: int = 64, channels: int = 1, dtype: torch.dtype = torch.float32
) -> Rendering:
    """Draw the sprites of a table of factors; the same table always gives the same images.

    Args:
        factors: One row per image, with the columns of ``SPRITE_FACTORS``. Values may leave a
            factor's range.
        size: Height and width in pixels, at least 16.
        channels: 1 or 3.
        dtype: ``torch.float32`` or ``torch.uint8``.

    Returns:
        Images (N, C, H, W) and masks: name -> booleans (N, H, W).

    Raises:
        OptionError: If a column is missing, holds something else than its factor's values, or an
            option is out of range.

    >>> from explainer.synthetic import sprites
    >>> planted = sprites(2, size=32)
    >>> darker, masks = render_sprites(planted.factors.assign(shade=0.3), size=32)
    >>> bool((darker != planted.images)[:, 0][~masks["sprite"]].float().mean() < 0.02)
    True
    """
    columns = _columns(factors, SPRITE_FACTORS)
    check_whole("size", size, at_least=_SMALLEST)
    if channels not in (1, 3):
        raise OptionError("channels", "must be 1 or 3", received=channels, remedy="Pass 1 for grey.")
    tint = np.array([1.0, 0.86, 0.62] if channels == 3 else [1.0], np.float32)[:, None, None]
    ground = np.array([0.05, 0.07, 0.11] if channels == 3 else [0.05], np.float32)[:, None, None]
    mark = _mark(size)
    vertical, horizontal = _frame(size)

    def draw(row: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        across, down = horizontal - row["x"], vertical - row["y"]
        cosine, sine = np.cos(row["orientation"]), np.sin(row["orientation"])
        right = (across * cosine - down * sine) / row["scale"]
        up = (-across * sine - down * cosine) / row["scale"]
        outside = np.empty_like(right)
        for name, distance in _SHAPES.items():
            chosen = row["shape"] == name
            outside[chosen] = distance(right[chosen], up[chosen])
        outside *= row["scale"] * np.float32(size)  # signed distance to the outline in pixels
        cover = np.clip(0.5 - outside, 0, 1)[:, None]
        marked = mark & row["batch_mark"][:, None, None]
        images = ground + cover * (row["shade"][:, None] * tint - ground)
        images = np.where(marked[:, None], np.float32(0.95), images)
        return images, {"sprite": (outside <= 0) & ~marked, "batch_mark": marked}

    return _render(draw, columns, size, channels, dtype)


def render_cells(
    factors: pd.DataFrame, *, size: int = 64, channels: int = 3, dtype: torch.dtype = torch.float32
) -> Rendering:
    """Draw the cells of a table of factors; the same table always gives the same images.

    Args:
        factors: One row per image, with the columns of ``CELL_FACTORS`` and ``texture``. Values may
            leave a factor's range.
        size: Height and width in pixels, at least 16.
        channels: 3, 4 or 5.
        dtype: ``torch.float32`` or ``torch.uint8``.

    Returns:
        Images (N, C, H, W) and masks: name -> booleans (N, H, W).

    Raises:
        OptionError: If a column is missing, holds something else than its factor's values, or an
            option is out of range.

    >>> from explainer.synthetic import cells
    >>> planted = cells(3, size=32, seed=1)
    >>> brighter, _ = render_cells(planted.factors.assign(nucleus_intensity=0.55), size=32)
    >>> (brighter - planted.images).abs().amax((0, 2, 3))[1:].tolist()  # only the nucleus channel changed
    [0.0, 0.0]
    """
    columns = _columns(factors, {**CELL_FACTORS, "texture": Factor()})
    check_whole("size", size, at_least=_SMALLEST)
    if channels not in (3, 4, 5):
        raise OptionError(
            "channels", "must be 3, 4 or 5", received=channels, remedy="Pass 3 or see CELL_CHANNELS."
        )
    mark = _mark(size)
    vertical, horizontal = _frame(size)
    # Blur, and at small sizes the pixel itself, so that nothing falls between the pixels.
    edge, spot_width = np.float32(max(0.03, 1.5 / size)), np.float32(max(_SPOT_WIDTH, 0.6 / size))

    def inside(depth: np.ndarray) -> np.ndarray:
        t = np.clip(depth / edge + 0.5, 0, 1)
        return t * t * (3 - 2 * t)

    def draw(row: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        grain = _Grain.of(row["texture"][:, 0, 0], size, channels)
        across, down = horizontal - row["x"], vertical - row["y"]
        cosine, sine = np.cos(row["orientation"]), np.sin(row["orientation"])
        along, aside = across * cosine - down * sine, -across * sine - down * cosine

        stretch = np.sqrt(row["elongation"])
        rho, depth = _blob(along / stretch, aside * stretch, _CELL_RADIUS, grain.cell_outline)
        cell = inside(depth)
        dome = np.sqrt(np.clip(1 - rho**2, 0, 1))

        mild = np.sqrt(stretch)  # a nucleus elongates less than its cell
        shift = 0.015 * grain.nucleus_shift
        right, up = (along - shift[:, 0]) / mild, (aside - shift[:, 1]) * mild
        radius = row["nucleus_size"]
        nucleus_rho, nucleus_depth = _blob(right, up, radius, 0.5 * grain.nucleus_outline)
        nucleus = inside(nucleus_depth)
        chromatin = 0.72 + 0.28 * np.sqrt(np.clip(1 - nucleus_rho**2, 0, 1))
        for place in grain.nucleoli:  # stained less by a DNA dye
            apart = (right / radius - place[:, 0]) ** 2 + (up / radius - place[:, 1]) ** 2
            chromatin *= 1 - 0.5 * np.exp(-apart / 0.05)

        (x, y), brightness = _spots(row, grain)
        rows = np.exp(-(((vertical - y[..., None, None]) / spot_width) ** 2) / 2)[..., 0]
        lines = np.exp(-(((horizontal - x[..., None, None]) / spot_width) ** 2) / 2)[..., 0, :]
        spots = np.swapaxes(rows * brightness[..., None], 1, 2) @ lines
        spot_shape = np.swapaxes(rows * (brightness > 0)[..., None], 1, 2) @ lines

        threads = np.exp(-((grain.fine / 0.5) ** 2))  # ridges where the grain crosses zero
        haze = np.exp(np.minimum(depth, 0) / 0.06)
        light = [
            row["nucleus_intensity"] * nucleus * chromatin * (1 + 0.11 * grain.fine) + 0.02 * haze,
            row["cytoplasm_intensity"]
            * (cell * (0.4 + 0.6 * dome) * (1 + 0.12 * grain.coarse) * (1 - 0.55 * nucleus) + 0.08 * haze),
            0.6 * np.minimum(spots, 1.2) + 0.05 * cell + 0.02 * haze,
            0.45 * np.exp(-((depth / edge) ** 2)) * (1 + 0.2 * grain.coarse) + 0.07 * cell + 0.02 * haze,
            0.6 * threads * cell * (1 - nucleus) * np.clip(1.15 - rho, 0, 1) + 0.02 * haze,
        ]
        signal = np.stack(np.broadcast_arrays(*light[:channels]), 1) * row["stain_gain"][:, None] + 0.02
        signal *= (1 + row["illumination_tilt"] * (2 * horizontal - 1))[:, None]
        signal = np.clip(signal, 0, None)
        # Camera: read noise and shot noise, whose variance grows with the signal.
        images = signal + np.sqrt(5e-5 + 3e-4 * signal) * grain.noise
        marked = mark & row["batch_mark"][:, None, None]
        images = np.where(marked[:, None], np.float32(0.9), np.clip(images, 0, 1))
        in_nucleus = nucleus_depth >= 0
        masks = {
            "nucleus": in_nucleus,
            "cytoplasm": (depth >= 0) & ~in_nucleus,
            "spots": spot_shape > 0.25,
            "batch_mark": marked,
        }
        return images, masks

    return _render(draw, columns, size, channels, dtype)


def _columns(factors: pd.DataFrame, expected: Mapping[str, Factor]) -> dict[str, np.ndarray]:
    """The table's columns as arrays (N,), checked."""
    missing = [name for name in expected if name not in factors]
    if missing or not len(factors):
        raise OptionError(
            "factors",
            f"lacks the columns {', '.join(missing)}" if missing else "has no rows",
            received=f"columns {', '.join(map(str, factors.columns))}",
            remedy="Start from the factors of sprites() or cells() and change columns with .assign().",
        )
    columns = {}
    for name, factor in expected.items():
        values = factors[name].to_numpy()
        if factor.levels and isinstance(factor.levels[0], str):
            wrong = ~np.isin(values.astype(str), factor.levels)
        else:
            values = pd.to_numeric(factors[name], errors="coerce").to_numpy(np.float64)
            wrong = ~np.isfinite(values)
            if name in ("scale", "nucleus_size", "elongation"):
                wrong |= values <= 0
            if name in ("spots", "texture"):
                wrong |= (values < 0) | (values != np.floor(values))
            if name == "spots":
                wrong |= values > _MOST_SPOTS
            if name == "batch_mark":
                wrong |= (values != 0) & (values != 1)
                values = values == 1
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise OptionError(
                "factors",
                f"holds a value of {name} in row {row} that cannot be drawn",
                received=factors[name].iloc[row],
                remedy=f"Use one of {', '.join(map(str, factor.levels))}."
                if factor.levels
                else f"Use a finite number such as {factor.quantile(np.array(0.5))}.",
            )
        columns[name] = values
    return columns


def check_whole(argument: str, value: int, *, at_least: int) -> None:
    """Refuse an option that is not a whole number of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        problem = f"must be a whole number of at least {at_least}"
        raise OptionError(argument, problem, received=value, remedy=f"Pass e.g. {argument}=64.")


def _frame(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: y as (1, H, 1) and x as (1, 1, W), in fractions of the frame."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, :, None], centres[None, None, :]


def _mark(size: int) -> np.ndarray:
    """The batch mark: a cross on whole pixels near the upper left corner, booleans (1, H, W)."""
    start, arm = max(1, round(0.03 * size)), max(1, round(0.035 * size))
    place = np.arange(size) - start
    within, central = (place >= 0) & (place < 3 * arm), (place >= arm) & (place < 2 * arm)
    return (np.outer(within, central) | np.outer(central, within))[None]


def _render(
    draw: Callable, columns: dict[str, np.ndarray], size: int, channels: int, dtype: torch.dtype
) -> Rendering:
    """Draw in chunks that stay in the processor's cache, and store."""
    if dtype not in (torch.float32, torch.uint8):
        problem = "must be torch.float32 or torch.uint8"
        raise OptionError("dtype", problem, received=dtype, remedy="Leave it out for float32.")
    n, chunk = len(columns["x"]), max(1, 2**18 // size**2)
    images = torch.empty((n, channels, size, size), dtype=dtype)
    masks: dict[str, Tensor] = {}
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        row = {
            name: values[part, None, None].astype(np.float32) if values.dtype == np.float64 else values[part]
            for name, values in columns.items()
            if name != "texture"
        }
        if "texture" in columns:  # a seed would not survive float32
            row["texture"] = columns["texture"][part, None, None]
        drawn, drawn_masks = draw(row)
        drawn = np.rint(255 * drawn) if dtype == torch.uint8 else drawn
        images[part] = torch.from_numpy(drawn).to(dtype)
        for name, mask in drawn_masks.items():
            whole = masks.setdefault(name, torch.empty((n, size, size), dtype=torch.bool))
            whole[part] = torch.from_numpy(mask)
    return images, masks


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the square of area 1."""
    x, y = np.abs(x) - np.float32(0.5), np.abs(y) - np.float32(0.5)
    beyond = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
    return beyond + np.minimum(np.maximum(x, y), 0)


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (first order in it) to the ellipse of area 1 with axes 2 : 1."""
    short = np.float32(1 / np.sqrt(2 * np.pi))
    x, y = x / (2 * short), y / short
    level = np.sqrt(x**2 + y**2)
    slope = np.sqrt((x / (2 * short)) ** 2 + (y / short) ** 2)
    return level * (level - 1) / np.maximum(slope, np.float32(1e-6))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the heart of area 1: a square on its corner with two half discs.

    The formula (Quilez, "2D distance functions") has the tip at the origin, a square of area 1/2 and
    discs of radius sqrt(2)/4 about (+-1/4, 3/4); here it is moved to its centre of gravity.
    """
    area = 0.5 + np.pi / 8
    centre = (0.5 * 0.5 + np.pi / 8 * (0.75 + 1 / (3 * np.pi))) / area
    x, y = np.abs(x) * np.float32(np.sqrt(area)), y * np.float32(np.sqrt(area)) + np.float32(centre)
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.float32(np.sqrt(2) / 4)
    foot = 0.5 * np.maximum(x + y, 0)
    side = np.minimum(x**2 + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)
    distance = np.where(x + y > 1, lobe, np.sqrt(side) * np.sign(x - y))
    return distance / np.float32(np.sqrt(area))


_SHAPES = {"square": _square, "ellipse": _ellipse, "heart": _heart}


def _outline(cosine: np.ndarray, sine: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Radius, about 1, of a wobbly circle in a direction: harmonics 2, 3 and 4."""
    amplitudes = amplitudes.reshape(len(amplitudes), 6, *[1] * (cosine.ndim - 1))
    radius, c, s = np.ones_like(cosine), cosine, sine
    for k in range(3):
        c, s = c * cosine - s * sine, s * cosine + c * sine
        radius = radius + amplitudes[:, 2 * k] * c + amplitudes[:, 2 * k + 1] * s
    return radius


def _blob(
    x: np.ndarray, y: np.ndarray, radius: np.ndarray | float, amplitudes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A wobbly disc: distance from its centre (1 on the outline) and depth under its outline (frame)."""
    distance = np.maximum(np.sqrt(x**2 + y**2), np.float32(1e-6))
    outline = _outline(x / distance, y / distance, amplitudes)
    distance = distance / np.float32(radius)
    return distance / outline, (outline - distance) * np.float32(radius)


def _spots(row: dict[str, np.ndarray], grain: "_Grain") -> tuple[list[np.ndarray], np.ndarray]:
    """Places [x, y] of the spots, each (N, K) in the frame, and their brightness, 0 where there is none."""
    count = row["spots"][:, :, 0]
    # Padding K to a fixed number keeps the sums, bit for bit, independent of the other images.
    usual = CELL_FACTORS["spots"].levels[-1]
    k = np.arange(usual if count.max() <= usual else _MOST_SPOTS)
    angle, radius, brightness = grain.spots[:, :, : len(k)].swapaxes(0, 1)
    # Nine places, taken in turn; the places of the next nine lie between them.
    angle = _TURN * (angle[:, :1] + k * 4 / 9 + (k // 9) * 0.618 / 9) + 0.3 * (angle - 0.5)
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    radius = _CELL_RADIUS * (0.76 + 0.12 * radius) * _outline(cosine, sine, grain.cell_outline)
    stretch = np.sqrt(row["elongation"][:, :, 0])
    along, aside = radius * cosine * stretch, radius * sine / stretch
    cosine, sine = np.cos(row["orientation"][:, :, 0]), np.sin(row["orientation"][:, :, 0])
    across, down = along * cosine - aside * sine, -along * sine - aside * cosine
    places = [row["x"][:, :, 0] + across, row["y"][:, :, 0] + down]
    return places, np.where(k < count, 0.65 + 0.35 * brightness, 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Grain:
    """What the seeds in ``texture`` decide, the same at every size except for camera noise."""

    cell_outline: np.ndarray  # (N, 6) harmonics 2, 3, 4: cosine and sine amplitudes
    nucleus_outline: np.ndarray  # (N, 6)
    nucleus_shift: np.ndarray  # (N, 2, 1, 1) in [-1, 1]
    nucleoli: np.ndarray  # (2, N, 2, 1, 1) in units of the nucleus' radius
    spots: np.ndarray  # (N, 3, spots) in [0, 1): angle, radius, brightness
    fine: np.ndarray  # (N, H, W) zero mean, unit variance
    coarse: np.ndarray  # (N, H, W)
    noise: np.ndarray  # (N, C, H, W) white, unit variance

    @classmethod
    def of(cls, seeds: np.ndarray, size: int, channels: int) -> "_Grain":
        n = len(seeds)
        numbers = np.empty((n, 18 + 3 * _MOST_SPOTS), np.float32)
        fields = np.empty((n, 2, _GRID, _GRID), np.float32)
        noise = np.empty((n, channels, size, size), np.float32)
        for i, seed in enumerate(seeds.astype(np.int64)):
            stream = np.random.default_rng(seed)
            stream.random(dtype=np.float32, out=numbers[i])
            stream.standard_normal(dtype=np.float32, out=fields[i])
            stream.standard_normal(dtype=np.float32, out=noise[i])
        signed = 2 * numbers - 1
        amplitudes = np.array([0.05, 0.05, 0.045, 0.045, 0.025, 0.025], np.float32)
        place = 0.5 * signed[:, 14:18].reshape(n, 2, 2, 1, 1).swapaxes(0, 1)
        grid, pixels = (np.arange(_GRID) + 0.5) / _GRID, (np.arange(size) + 0.5) / size
        smooth = []
        for width, field in zip((0.025, 0.05), (fields[:, 0], fields[:, 1]), strict=True):
            blur = np.exp(-(((pixels[:, None] - grid) / width) ** 2) / 2)
            blur = (blur / np.sqrt((blur**2).sum(1, keepdims=True))).astype(np.float32)  # unit variance
            smooth.append(blur @ field @ blur.T)
        return cls(
            cell_outline=amplitudes * signed[:, :6],
            nucleus_outline=amplitudes * signed[:, 6:12],
            nucleus_shift=signed[:, 12:14, None, None],
            nucleoli=place,
            spots=numbers[:, 18:].reshape(n, 3, _MOST_SPOTS),
            fine=smooth[0],
            coarse=smooth[1],
            noise=noise,
        )
