"""Generators: one interface, interchangeable kinds, and a zoo of trained ones."""

from explainer.generators.adapters import Adapter, from_diffusers, from_pythae
from explainer.generators.axes import Axis, NamedAxes
from explainer.generators.base import Detail, Generator
from explainer.generators.directions import name_axes
from explainer.generators.guidance import Guidance
from explainer.generators.guiding import guide
from explainer.generators.health import Health
from explainer.generators.infomax import InfoMaxVAE
from explainer.generators.mixture import GaussianMixtureVAE
from explainer.generators.two_stage import TwoStageVAE
from explainer.generators.vae import VAE
from explainer.generators.zoo import list_models, load_classifier, load_generator

__all__ = [
    "VAE",
    "Adapter",
    "Axis",
    "Detail",
    "GaussianMixtureVAE",
    "Generator",
    "Guidance",
    "Health",
    "InfoMaxVAE",
    "NamedAxes",
    "TwoStageVAE",
    "from_diffusers",
    "from_pythae",
    "guide",
    "list_models",
    "load_classifier",
    "load_generator",
    "name_axes",
]
