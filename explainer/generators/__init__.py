"""Generators: one interface, interchangeable kinds, and a zoo of trained ones."""

from explainer.generators.adapters import Adapter, from_diffusers, from_pythae
from explainer.generators.base import Detail, Generator
from explainer.generators.health import Health
from explainer.generators.infomax import InfoMaxVAE
from explainer.generators.mixture import GaussianMixtureVAE
from explainer.generators.two_stage import TwoStageVAE
from explainer.generators.vae import VAE
from explainer.generators.zoo import list_models, load_classifier, load_generator

__all__ = [
    "VAE",
    "Adapter",
    "Detail",
    "GaussianMixtureVAE",
    "Generator",
    "Health",
    "InfoMaxVAE",
    "TwoStageVAE",
    "from_diffusers",
    "from_pythae",
    "list_models",
    "load_classifier",
    "load_generator",
]
