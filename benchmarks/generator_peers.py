"""A VAE of ours against pythae's, on the same network, images, steps and batch size, in one run.

    pip install --no-deps pythae==0.1.2
    python benchmarks/generator_peers.py --mnist mnist.npz

Both train the encoder and decoder of :class:`explainer.generators.VAE` (without its linear start, which
pythae has no place for) on the same normalised images, with Adam at the same rate; pythae with its own loss,
half the squared error plus the KL divergence, and its own trainer. Ours is also trained as it comes, linear
start included. Speed: short trainings of both in turn; of every one, the median time between two steps.
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from generator_runs import Images, floats, read_mnist
from torch import Tensor, nn

from explainer.generators import VAE
from explainer.generators.feed import feed
from explainer.generators.training import store_intensity
from explainer.metrics import r2

LATENT_DIM = 10
STEPS, TIMED_STEPS, ROUNDS = 150, 20, 5
BATCH, RATE = 32, 1e-3


class Timed:
    """When each step began."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def mark(self) -> None:
        self.begun.append(time.perf_counter())

    def median(self) -> float:
        """Seconds from one step to the next; the first five are left out."""
        gaps = [after - before for before, after in zip(self.begun, self.begun[1:], strict=False)]
        return statistics.median(gaps[5:])


def ours(images: Images, steps: int, seed: int, *, linear: bool) -> tuple[VAE, Timed]:
    timed = Timed()

    class TimedVAE(VAE):
        def loss(self, *arguments: Any) -> Any:
            timed.mark()
            return super().loss(*arguments)

    generator = TimedVAE(images.shape, LATENT_DIM, linear=linear, seed=seed)
    generator.fit(
        images.training, steps=steps, minutes=600, seed=seed, batch_size=BATCH, learning_rate=RATE,
        progress=False,
    )  # fmt: skip
    return generator, timed


def theirs(images: Images, steps: int, seed: int) -> tuple[nn.Module, VAE, Timed]:
    """pythae's VAE around the network of ours; the generator returned with it only normalises and crops."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    timed = Timed()
    network = VAE(images.shape, LATENT_DIM, linear=False, seed=seed)
    store_intensity(network, feed(images.training, "images", images.shape, BATCH), seed)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([network.encoder, network.to_code])

        def forward(self, prepared: Tensor) -> Any:
            timed.mark()
            mean, log_variance = network.posterior(prepared)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([network.decoder, network.from_code])

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=network._decode(z))

    prepared = network.prepare(floats(images.training[: steps * BATCH]))  # pythae counts in epochs: one
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        model = models.VAE(models.VAEConfig(network.padded_shape, LATENT_DIM), Encoder(), Decoder())
        settings = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, num_epochs=1, learning_rate=RATE,
            seed=seed, no_cuda=True, keep_best_on_train=True,
        )  # fmt: skip
        trainer = BaseTrainer(model, _dataset(prepared), training_config=settings)
        trainer.train()
    return model, network.eval(), timed


def _dataset(prepared: Tensor) -> Any:
    from pythae.data.datasets import BaseDataset

    return BaseDataset(prepared, torch.ones(len(prepared)))


@torch.no_grad()
def quality(generator: VAE, images: Images) -> dict[str, float]:
    """Test R2 of the posterior mean's image, in the normalised units, and the nats of the code."""
    truth, rebuilt, nats = [], [], []
    for part in images.test.split(250):
        truth.append(generator.normalise(part))
        code = generator._encode(generator.prepare(part))
        rebuilt.append(generator.crop(generator._decode(code)))
        nats.append(generator.total_kl(part) * len(part))
    return {
        "R2": float(r2(torch.cat(rebuilt), torch.cat(truth)).mean()),
        "KL in nats": float(torch.stack(nats).sum() / len(images.test)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, required=True, help="mnist.npz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    images = read_mnist(options.mnist, split="test")
    network = ours(images, STEPS, 0, linear=False)[0]
    whole = ours(images, STEPS, 0, linear=True)[0]
    _, peer, _ = theirs(images, STEPS, 0)
    result: dict[str, Any] = {
        "steps": STEPS,
        "reconstruction of MNIST": {
            "ours, same network": quality(network, images),
            "ours, with the linear start": quality(whole, images),
            "pythae 0.1.2": quality(peer, images),
        },
    }
    print(result, flush=True)
    result["better"] = {
        name: result["reconstruction of MNIST"][ours_is]["R2"]
        - result["reconstruction of MNIST"]["pythae 0.1.2"]["R2"]
        for name, ours_is in (
            ("R2 of the same network - pythae's", "ours, same network"),
            ("R2 with the linear start - pythae's", "ours, with the linear start"),
        )
    }
    pairs = [
        (
            ours(images, TIMED_STEPS, number, linear=False)[1].median(),
            theirs(images, TIMED_STEPS, number)[2].median(),
        )
        for number in range(ROUNDS)
    ]
    result["speed"] = {
        "rounds": ROUNDS,
        "steps per second, ours / pythae's (median of rounds)": statistics.median(b / a for a, b in pairs),
        "each round": [b / a for a, b in pairs],
    }
    print(record.write("generator_peers", result, "--mnist <npz>"), result)


if __name__ == "__main__":
    main()
