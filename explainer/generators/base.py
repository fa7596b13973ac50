r"""A generator turns an image into a latent code and a code back into an image.

``encode`` gives the posterior **mean**; ``decode`` gives an image in [0, 1]. What the code does not
hold of one image is its *detail*: taken once, carried unchanged while the code is walked. With
:math:`y = G(z')`, :math:`y_0 = G(z)` and strength :math:`a` the delivered image is

.. math:: x' = y + a M (x - y_0), \qquad M = \exp(-\mathrm{blur}_5(\overline{|y - y_0|}) / \tau)

so the pixel residual fades out exactly where the walk changes the image: no ghosts remain of what
must vanish. At ``z' = z`` and strength 1 the delivered image is ``x`` itself. No gradient runs
through ``M``, unless a detail asks for it (``full``): what adds up along a path needs all of the gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from explainer.errors import GeneratorError
from explainer.generators.axes import NamedAxes
from explainer.image import resize

__all__ = ["Detail", "Generator", "as_unit_interval", "gate", "initialised"]


@dataclass(frozen=True)
class Detail:
    """What a code does not hold of its images.

    Attributes:
        values: Named tensors with one row per image, laid down by the generator that made them.
        strength: 1 carries everything, 0 nothing (frames are then bare).
        full: Whether gradients run through the gate too.
    """

    values: Mapping[str, Tensor]
    strength: float = 1.0
    full: bool = False

    def __getitem__(self, rows: Tensor | slice) -> "Detail":
        """The details of some of the images."""
        return replace(self, values={name: value[rows] for name, value in self.values.items()})


def gate(y: Tensor, y0: Tensor, tau: float, window: int = 5, *, full: bool = False) -> Tensor:
    """Mask ``(N, 1, H, W)``: 1 where ``y`` equals ``y0``, towards 0 where they differ by more than ``tau``.

    >>> gate(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), .03).min()
    tensor(1.)
    """
    change = (y - y0 if full else (y - y0).detach()).abs().mean(dim=1, keepdim=True)
    blurred = functional.avg_pool2d(change, window, stride=1, padding=window // 2, count_include_pad=False)
    return torch.exp(-blurred / tau)


DECODED = 64


class Generator(nn.Module, ABC):
    """Base of every generator: intensity units, padding and carried detail around a latent model.

    A subclass implements :meth:`_encode` and :meth:`_decode` in normalised, padded intensities.

    Args:
        shape: ``(C, H, W)`` of the images.
        latent_dim: Dimensions ``D`` of the code.
        multiple: The network takes heights and widths divisible by this; others are padded by
            replication and cropped back.
        tau: Width of the gate of the carried detail, in normalised intensity.
    """

    kind = "generator"

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, *, multiple: int, tau: float) -> None:
        super().__init__()
        if len(shape) != 3 or any(int(size) < 1 for size in shape) or min(shape[1:]) < 16:
            raise GeneratorError(
                "shape",
                "must be (channels, height, width) with at least 16 pixels a side",
                received=shape,
                remedy="Pass for example shape=(3, 64, 64).",
            )
        if not tau > 0:
            raise GeneratorError(
                "tau", "must be positive", received=tau, remedy=".05 suits intensities in [0, 1]."
            )
        if latent_dim < 1:
            raise GeneratorError(
                "latent_dim", "must be at least 1", received=latent_dim, remedy="64 suits faces at 64 px."
            )
        channels, height, width = (int(size) for size in shape)
        self.shape = (channels, height, width)
        self.latent_dim = int(latent_dim)
        self.tau = float(tau)
        self.padding = (-height % multiple, -width % multiple)
        self.padded_shape = (channels, height + self.padding[0], width + self.padding[1])
        self.channel_names: tuple[str, ...] | None = None
        self.source = "given"
        self.fingerprint = "unavailable: not loaded from a file"
        self.quantiles: dict[str, dict[str, float]] = {}
        self.axes: NamedAxes | None = None
        intensity = torch.stack([torch.zeros(channels), torch.ones(channels)])
        self.register_buffer("intensity", intensity)
        self.register_buffer("latent_mean", torch.zeros(self.latent_dim))
        self.register_buffer("latent_std", torch.ones(self.latent_dim))
        self.intensity: Tensor
        self.latent_mean: Tensor
        self.latent_std: Tensor

    # -- units ---------------------------------------------------------------------------------

    def normalise(self, images: Tensor) -> Tensor:
        """Image intensities in [0, 1] to the units of the losses: the training percentiles become 0 and 1."""
        low, high = self.intensity.view(2, 1, -1, 1, 1)
        return (images - low) / (high - low)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`, not clipped."""
        low, high = self.intensity.view(2, 1, -1, 1, 1)
        return images * (high - low) + low

    def pad(self, images: Tensor) -> Tensor:
        rows, columns = self.padding
        return functional.pad(images, (0, columns, 0, rows), mode="replicate") if rows or columns else images

    def crop(self, images: Tensor) -> Tensor:
        return images[..., : self.shape[1], : self.shape[2]]

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] as the network sees them."""
        return self.pad(self.normalise(images))

    # -- the model -----------------------------------------------------------------------------

    @abstractmethod
    def _encode(self, prepared: Tensor) -> Tensor:
        """Prepared images to posterior means ``(N, D)``."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Codes ``(N, D)`` to images in normalised units, padded."""

    def _detail(self, prepared: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """What to keep of the images: by default the images themselves and their reconstruction."""
        return {"image": prepared, "reconstruction": self._decode(codes)}

    def _deliver(self, codes: Tensor, detail: Detail) -> Tensor:
        """Codes with carried detail to images in normalised units, padded."""
        return self._fill_in(self._decode(codes), detail)

    def _fill_in(self, y: Tensor, detail: Detail) -> Tensor:
        y0 = detail.values["reconstruction"]
        residual = detail.values["image"] - y0
        return y + detail.strength * gate(y, y0, self.tau, full=detail.full) * residual

    # -- the public side -------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        """Posterior means ``(N, D)`` of images ``(N, C, H, W)`` in [0, 1]."""
        self._require_shape(images)
        return self._encode(self.prepare(images))

    def decode(self, z: Tensor, detail: Detail | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] of codes ``(N, D)``, with carried detail if given."""
        y = self._decode(z) if detail is None else self._deliver(z, detail)
        return self.denormalise(self.crop(y)).clamp(0, 1)

    @torch.no_grad()
    def detail(self, images: Tensor, z: Tensor, strength: float = 1.0) -> Detail:
        """What the codes ``z`` do not hold of ``images``; taken once, carried along a walk."""
        if not 0 <= strength <= 1:
            raise GeneratorError(
                "detail", "must lie in [0, 1]", received=strength, remedy="1 carries all detail, 0 none."
            )
        self._require_shape(images)
        return Detail(self._detail(self.prepare(images), z), float(strength))

    @torch.no_grad()
    def bare(self, images: Tensor) -> Tensor:
        """``decode(encode(images))`` without detail: what the generator itself can say of the images."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0) -> Tensor:
        """Images ``(count, C, H, W)`` decoded from the standard normal prior."""
        noise = torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))
        return self._decode_in_parts(noise.to(self.latent_mean))

    def _decode_in_parts(self, z: Tensor) -> Tensor:
        """Images of codes, however many: the activations of a few at a time are held."""
        return torch.cat([self.decode(part) for part in z.split(DECODED)])

    def region(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The part of an image this generator sees: ``(top, left, height, width)`` in pixels.

        The whole image if its aspect ratio is the generator's to within 2 %, else the largest central part.
        """
        height, width = size
        wanted = self.shape[2] / self.shape[1]
        if abs(width / height / wanted - 1) < 0.02:
            return 0, 0, height, width
        if width > height * wanted:
            kept = round(height * wanted)
            return 0, (width - kept) // 2, height, kept
        kept = round(width / wanted)
        return (height - kept) // 2, 0, kept, width

    def at_full_size(self, frames: Tensor, small: Tensor, images: Tensor, *, full: bool = False) -> Tensor:
        """Frames at the generator's size, delivered at the size of the images they belong to.

        What is too fine for the generator, ``images - upsampled(small)``, is kept, but fades out where the
        frame changes the image (with a gate of width ``2 tau``). Outside :meth:`region` nothing changes.

        Args:
            frames: ``(N, C, H, W)`` at the generator's size.
            small: What the frames were before any move, :meth:`resized` of the images.
            images: ``(N, C, any, any)``.
            full: Whether gradients run through the gate too.
        """
        if frames.shape[-2:] == images.shape[-2:]:
            return frames
        top, left, height, width = self.region((images.shape[-2], images.shape[-1]))
        delivered = images.clone()
        part = images[..., top : top + height, left : left + width]
        mask = gate(self.normalise(frames), self.normalise(small), 2 * self.tau, full=full)
        mask, enlarged, before = (resize(each, (height, width)) for each in (mask, frames, small))
        delivered[..., top : top + height, left : left + width] = enlarged + mask * (part - before)
        return delivered.clamp(0, 1)

    def resized(self, images: Tensor) -> Tensor:
        """The seen region of images ``(N, C, any, any)`` at the generator's size."""
        top, left, height, width = self.region((images.shape[-2], images.shape[-1]))
        return resize(images[..., top : top + height, left : left + width], self.shape[1:])

    @torch.no_grad()
    def bare_error(self, images: Tensor) -> Tensor:
        """MSE ``(N,)`` of ``bare`` in normalised units, one value per image."""
        gap = self.normalise(self.bare(images)) - self.normalise(images)
        return gap.square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def unexplained(self, images: Tensor) -> Tensor:
        """Share ``(N,)`` of an image's own variance that ``bare`` misses; a blank image has none to explain.

        The error alone is small for any dull picture; this is not.
        """
        values = self.normalise(images)
        spread = (values - values.mean(dim=(2, 3), keepdim=True)).square().mean(dim=(1, 2, 3))
        return self.bare_error(images) / spread.clamp_min(1e-9)

    @torch.no_grad()
    def typicality(self, z: Tensor) -> Tensor:
        """Distance ``(N,)`` of codes from the mean code, in standard deviations: near 1 is typical."""
        return ((z - self.latent_mean) / self.latent_std).square().mean(dim=1).sqrt()

    def posterior_of(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and log-variance ``(N, D)`` of the posterior of images in [0, 1]; None if there is none."""
        return None

    def kl_per_dimension(self, images: Tensor) -> Tensor:
        """KL divergence of the posterior from the prior, ``(D,)`` nats; empty if there is no posterior."""
        return images.new_empty(0)

    def total_kl(self, images: Tensor) -> Tensor:
        """KL divergence of the posterior from the prior, in nats, at least: a bound on I(x; z) from above."""
        return self.kl_per_dimension(images).sum()

    def stage_reconstructions(self, images: Tensor) -> dict[str, Tensor]:
        """Reconstructions by inner stages, by name, in normalised units."""
        return {}

    def options(self) -> dict[str, object]:
        """Constructor arguments that rebuild this generator; JSON-serialisable."""
        return {"shape": list(self.shape), "latent_dim": self.latent_dim, "tau": self.tau}

    def _require_shape(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise GeneratorError(
                "images",
                "must be floats in [0, 1]",
                received=images.dtype,
                remedy="Convert them with as_images.",
            )
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise GeneratorError(
                "images",
                f"must be (N, {', '.join(map(str, self.shape))})",
                received=tuple(images.shape),
                remedy="Resize them with explainer.image.resize, or train a generator of this shape.",
            )


def as_unit_interval(images: Tensor) -> Tensor:
    """Stored images as float32 in [0, 1]: unsigned integers are divided by their type's maximum."""
    if images.is_floating_point():
        return images.float()
    return images.float() / torch.iinfo(images.dtype).max


@contextmanager
def initialised(seed: int) -> Iterator[None]:
    """Modules built inside draw their initial weights from ``seed``; the global state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
