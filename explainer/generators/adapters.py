"""Autoencoders of other packages, behind the interface of a generator.

An :class:`Adapter` holds any object with ``encode`` and ``decode``. It scales images from [0, 1] to the
range the object was trained on and back, flattens its codes to ``(N, D)``, and takes the centre of a
posterior where the object gives one. What ``fit`` stores of a generator trained here, intensity
percentiles, code statistics and error quantiles, is stored by :meth:`Adapter.calibrate`: without it the
checks of an explanation have nothing to compare with.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from explainer.errors import DependencyError, GeneratorError, ModelFileError, OptionError
from explainer.frozen import frozen, modules_within
from explainer.generators.base import Generator
from explainer.generators.feed import ImageSource, feed
from explainer.generators.health import Health, measure_health
from explainer.generators.objectives import gaussian_kl
from explainer.generators.training import FEWEST_IMAGES, store_codes, store_intensity

__all__ = ["Adapter", "from_diffusers", "from_pythae"]


class Adapter(Generator):
    """Any object with ``encode`` and ``decode`` as a generator.

    The object is evaluated and left as it was found; only :meth:`to` moves it, with the generator.

    Args:
        model: ``encode`` takes images ``(N, C, H, W)`` in ``range`` and returns a tensor, a pair (mean,
            log-variance), a distribution, or an object that holds one of these as ``latent_dist``,
            ``latents`` or ``embedding``. ``decode`` takes codes of the same shape, with gradients, and
            returns images, or an object that holds them as ``sample`` or ``reconstruction``.
        shape: ``(C, H, W)`` of the images.
        range: The values that black and white have for the model, such as (-1, 1).
        multiple: The model takes heights and widths divisible by this; others are padded and cropped back.
        tau: Width of the gate of the carried detail, in normalised intensity.

    Raises:
        OptionError: A range that is not (low, high).
        GeneratorError: The model cannot encode or decode images of this shape.

    >>> class Mean:
    ...     def encode(self, images):
    ...         return images.mean(dim=(2, 3))
    ...     def decode(self, codes):
    ...         return codes[:, :, None, None].expand(-1, -1, 16, 16)
    >>> generator = Adapter(Mean(), (3, 16, 16), range=(-1, 1))
    >>> generator.encode(torch.full((2, 3, 16, 16), 0.75))[0]
    tensor([0.5000, 0.5000, 0.5000])
    >>> generator.bare(torch.full((2, 3, 16, 16), 0.75)).unique()
    tensor([0.7500])
    """

    kind = "adapter"

    def __init__(
        self,
        model: Any,
        shape: tuple[int, int, int],
        *,
        range: tuple[float, float] = (0.0, 1.0),
        multiple: int = 1,
        tau: float = 0.03,
    ) -> None:
        missing = [name for name in ("encode", "decode") if not callable(getattr(model, name, None))]
        if missing:
            raise GeneratorError(
                "model", f"has no method {' and no method '.join(missing)}", received=type(model).__name__,
                remedy="Pass an object with encode and decode, or write a class with these two around it.",
            )  # fmt: skip
        bounds = np.asarray(range, dtype=np.float64)
        if bounds.shape != (2,) or not np.isfinite(bounds).all() or not bounds[0] < bounds[1]:
            raise OptionError(
                "range", "must be (low, high), both finite", received=range,
                remedy="Pass the values that black and white have for the model, such as (-1, 1).",
            )  # fmt: skip
        super().__init__(shape, 1, multiple=multiple, tau=tau)
        self.range = float(bounds[0]), float(bounds[1])
        self.held = nn.ModuleList(modules_within(model))
        self._model = (model,)  # in a tuple, so that a module is not registered twice
        self.source = f"adapted {type(model).__name__}"
        self.to(next((parameter.device for parameter in self.held.parameters()), torch.device("cpu")))
        self.code_shape = self._probed()
        self.latent_dim = int(np.prod(self.code_shape))
        self.latent_mean = torch.zeros(self.latent_dim, device=self.intensity.device)
        self.latent_std = torch.ones(self.latent_dim, device=self.intensity.device)

    # -- the model of the other package ------------------------------------------------------------

    def posterior(self, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Centres ``(N, D)`` of the codes of prepared images, and their log-variances if there are any."""
        low, high = self.range
        images = self.denormalise(prepared) * (high - low) + low
        with frozen(list(self.held)):
            centre, log_variance = _moments(self._model[0].encode(self._as_held(images)))
        flat = centre.flatten(1).to(prepared.dtype)
        return flat, None if log_variance is None else log_variance.flatten(1).to(prepared.dtype)

    def _encode(self, prepared: Tensor) -> Tensor:
        return self.posterior(prepared)[0]

    def _decode(self, codes: Tensor) -> Tensor:
        low, high = self.range
        with frozen(list(self.held)):
            images = _images(self._model[0].decode(self._as_held(codes.view(-1, *self.code_shape))))
        return self.normalise((images.to(codes.dtype) - low) / (high - low))

    def _as_held(self, values: Tensor) -> Tensor:
        """Values in the precision of the model."""
        parameter = next((each for each in self.held.parameters() if each.is_floating_point()), None)
        return values if parameter is None else values.to(parameter.dtype)

    @torch.no_grad()
    def _probed(self) -> tuple[int, ...]:
        """Shape of one code, found on two grey images; what the model cannot do is an error here."""
        images = torch.full((2, *self.padded_shape), 0.5, device=self.intensity.device)
        step = "encode"
        try:
            low, high = self.range
            with frozen(list(self.held)):
                code, _ = _moments(self._model[0].encode(self._as_held(images * (high - low) + low)))
                _require_codes(code)
                step = "decode"
                decoded = _images(self._model[0].decode(code))
        except GeneratorError:
            raise
        except Exception as error:  # whatever a model of another package may raise
            raise GeneratorError(
                "model", f"cannot {step} images of shape {self.padded_shape}",
                received=f"{type(error).__name__}: {error}",
                remedy="Pass the shape it was built for, or multiple= if it takes only some sizes.",
            ) from error  # fmt: skip
        if decoded.shape != images.shape:
            raise GeneratorError(
                "model", f"must decode to images of shape {self.padded_shape}",
                received=tuple(decoded.shape), remedy="Pass the shape the model was built for.",
            )  # fmt: skip
        return tuple(code.shape[1:])

    # -- what fit does for generators that are trained here -----------------------------------------

    def calibrate(self, images: ImageSource, *, seed: int = 0) -> Self:
        """Store intensity percentiles, code statistics and error quantiles.

        Args:
            images: ``(N, C, H, W)`` like those to be explained, which the model was not trained on: floats
                in [0, 1], unsigned integers, or anything else that ``fit`` of a VAE takes.
            seed: Chooses the images of the percentiles, where there are more than 2,000.

        Returns:
            The generator itself.

        Raises:
            TrainingError: Unusable or fewer than 40 images.
        """
        stored = feed(images, "images", self.shape, FEWEST_IMAGES)
        store_intensity(self, stored, seed)
        store_codes(self, stored, stored)
        return self

    def fit(self, *_: object, **__: object) -> Self:
        """Refused: an adapter holds a model that was trained elsewhere.

        Raises:
            GeneratorError: Always.
        """
        raise GeneratorError(
            "fit", "an adapted model is trained where it comes from", received=self.source,
            remedy="Call calibrate(images), which stores what fit stores; or train a TwoStageVAE here.",
        )  # fmt: skip

    def save(self, *_: object, **__: object) -> None:
        """Refused: only its own package can write the model, and read it again.

        Raises:
            GeneratorError: Always.
        """
        raise GeneratorError(
            "save", "an adapted model is saved by the package it comes from", received=self.source,
            remedy="Save and load it there, wrap it again, and calibrate it on the same images with the same "
            "seed: that is the same generator.",
        )  # fmt: skip

    def health(self, images: Tensor, labels: ArrayLike | None = None) -> Health:
        """Measure this generator on images ``(N, C, H, W)`` in [0, 1], and on their classes if given."""
        self._require_shape(images)
        return measure_health(self, images, labels)

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0) -> Tensor:
        """Images ``(count, C, H, W)`` decoded from the Gaussian of the codes that were calibrated on."""
        noise = torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))
        return self._decode_in_parts(self.latent_mean + self.latent_std * noise.to(self.latent_mean))

    def posterior_of(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        mean, log_variance = self.posterior(self.prepare(images))
        return None if log_variance is None else (mean, log_variance)

    @torch.no_grad()
    def kl_per_dimension(self, images: Tensor) -> Tensor:
        mean, log_variance = self.posterior(self.prepare(images))
        return super().kl_per_dimension(images) if log_variance is None else gaussian_kl(mean, log_variance)


class _Pythae:
    """``encode`` and ``decode`` of a model of pythae, whose encoder and decoder are modules of it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def encode(self, images: Tensor) -> Any:
        return self.model.encoder(images)

    def decode(self, codes: Tensor) -> Any:
        return self.model.decoder(codes)


def from_pythae(
    model: Any, shape: tuple[int, int, int], *, range: tuple[float, float] = (0.0, 1.0), tau: float = 0.03
) -> Adapter:
    """A trained autoencoder of pythae as a generator. Its codes must be continuous.

    Args:
        model: With ``encoder`` and ``decoder``, such as ``AutoModel.load_from_folder(...)`` returns.
        shape: ``(C, H, W)`` of the images.
        range: The values that black and white had in training.
        tau: Width of the gate of the carried detail.

    Raises:
        GeneratorError: No encoder or decoder, or one that does not take images of this shape.
    """
    missing = [name for name in ("encoder", "decoder") if not callable(getattr(model, name, None))]
    if missing:
        raise GeneratorError(
            "model", f"has no {' and no '.join(missing)}", received=type(model).__name__,
            remedy="Pass a trained autoencoder of pythae; for other packages use Adapter.",
        )  # fmt: skip
    generator = Adapter(_Pythae(model), shape, range=range, tau=tau)
    generator.source = f"pythae {type(model).__name__}"
    return generator


def from_diffusers(
    autoencoder: Any,
    shape: tuple[int, int, int],
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    tau: float = 0.03,
) -> Adapter:
    """An ``AutoencoderKL`` of diffusers as a generator, with its whole spatial code.

    Args:
        autoencoder: The model, or a local folder with its ``config.json`` and safetensors.
        shape: ``(C, H, W)`` of the images; what its halvings do not divide is padded and cropped back.
        range: The values that black and white had in training.
        tau: Width of the gate of the carried detail.

    Raises:
        DependencyError: diffusers is not installed.
        ModelFileError: The folder cannot be read.
        GeneratorError: Another model, or one with another number of channels.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise DependencyError(
            "diffusers", "cannot be imported", received=error,
            remedy='Install it: pip install "progressive-explainer[huggingface]".',
        ) from error  # fmt: skip
    if isinstance(autoencoder, str | Path):
        folder = Path(autoencoder)
        if not (folder / "config.json").is_file():  # a name would be looked up on the network
            raise ModelFileError(
                "autoencoder", "is not a folder with a config.json", received=folder,
                remedy="Download it first and pass its local folder.",
            )  # fmt: skip
        try:
            autoencoder = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelFileError(
                "autoencoder", "cannot be read", received=error,
                remedy="Pass a folder that save_pretrained wrote, with safetensors.",
            ) from error  # fmt: skip
    expected: Any = AutoencoderKL
    if not isinstance(autoencoder, expected):
        raise GeneratorError(
            "autoencoder", "must be an AutoencoderKL", received=type(autoencoder).__name__,
            remedy="Pass other autoencoders to Adapter.",
        )  # fmt: skip
    multiple = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    generator = Adapter(autoencoder, shape, range=range, multiple=multiple, tau=tau)
    generator.source = "diffusers AutoencoderKL"
    return generator


def _moments(output: Any) -> tuple[Tensor, Tensor | None]:
    """Centre and log-variance of whatever ``encode`` returned."""
    if isinstance(output, Tensor):
        return output, None
    if isinstance(output, tuple | list) and len(output) == 1:
        return _moments(output[0])
    if isinstance(output, tuple | list) and len(output) == 2 and all(isinstance(o, Tensor) for o in output):
        if output[0].shape == output[1].shape:
            return output[0], output[1]
        raise _unreadable(f"a pair of shapes {tuple(output[0].shape)} and {tuple(output[1].shape)}")
    for name in ("latent_dist", "latents", "embedding"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value, getattr(output, "log_covariance", None)
        if value is not None:
            return _moments(value)
    for name in ("mode", "mean"):
        centre = getattr(output, name, None)
        centre = centre() if callable(centre) else centre
        if isinstance(centre, Tensor):
            if isinstance(output, torch.distributions.Normal):
                return centre, 2 * output.scale.log()
            return centre, getattr(output, "logvar", None)
    raise _unreadable(type(output).__name__)


def _require_codes(code: Tensor) -> None:
    if code.ndim < 2 or len(code) != 2 or not code.is_floating_point() or not code[0].numel():
        raise GeneratorError(
            "model", "must encode two images to two codes", received=f"{code.dtype} {tuple(code.shape)}",
            remedy="Return continuous codes with one row for each image; indices cannot be walked.",
        )  # fmt: skip


def _unreadable(received: str) -> GeneratorError:
    return GeneratorError(
        "model", "encodes to something that no code can be read from", received=received,
        remedy="Let encode return a tensor, (mean, log_variance), or an object with latent_dist.",
    )  # fmt: skip


def _images(output: Any) -> Tensor:
    """The images in whatever ``decode`` returned."""
    if isinstance(output, tuple | list) and output:
        return _images(output[0])
    for value in (output, getattr(output, "sample", None), getattr(output, "reconstruction", None)):
        if isinstance(value, Tensor):
            return value
    raise GeneratorError(
        "model", "decodes to something that no images can be read from", received=type(output).__name__,
        remedy="Let decode return a tensor, or an object with sample or reconstruction.",
    )  # fmt: skip
