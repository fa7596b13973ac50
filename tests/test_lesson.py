"""What guidance adds to a loss, on painters whose codes are known: one that obeys costs next to nothing."""

import pytest
import torch

from explainer.generators import Axis, Guidance, NamedAxes
from explainer.generators.base import Generator
from explainer.generators.directions import codes_of
from explainer.generators.lesson import Lesson, Weights

COUNT = 120


class Painter(Generator):
    """A disc whose shade is drawn from one coordinate of a code of two, and whose place from the other.

    Args:
        shade: The coordinate that is drawn as shade when images are decoded; encoded is always as 0.
    """

    kind = "painter"

    def __init__(self, shade: int = 0) -> None:
        super().__init__((1, 16, 16), 2, multiple=1, tau=1e6)
        self.shade = shade

    def _encode(self, prepared):
        light = prepared - prepared.flatten(1).median(dim=1).values[:, None, None, None]
        columns = torch.arange(16.0) + 0.5
        place = (light.sum(dim=2) * columns).sum(dim=(1, 2)) / light.sum(dim=(1, 2, 3))
        return torch.stack([(light.flatten(1).amax(dim=1) - 0.5) / 0.15, (place - 8) / 1.5], dim=1)

    def _decode(self, codes):
        shade, place = codes[:, self.shade], codes[:, 1 - self.shade]
        at = torch.arange(16.0) + 0.5
        down = torch.exp(-((at - 8) ** 2) / 4)[None, :, None]
        along = torch.exp(-((at[None] - 8 - 1.5 * place[:, None]) ** 2) / 4)[:, None, :]
        return (0.05 + (0.5 + 0.15 * shade)[:, None, None] * down * along)[:, None]


@pytest.fixture(scope="module")
def codes():
    return torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)


@pytest.fixture(scope="module")
def images(codes):
    with torch.no_grad():
        return Painter().decode(codes)


def lesson_of(images, guidance, *, names=("shade",), weights=None):
    before = Painter().requires_grad_(False)
    axes = NamedAxes(tuple(Axis(name) for name in names), torch.zeros(2), torch.eye(2)[: len(names)])
    places = {str(row): row for row in range(COUNT)}
    found = codes_of(before, images)
    return Lesson(before, axes, guidance, images, places, found, weights or Weights(), 0)


def terms(lesson, painter, images):
    noise = torch.Generator().manual_seed(1)
    return {name: float(value) for name, value in lesson(painter, images[:64], noise)[1].items()}


def test_a_decoder_that_draws_a_factor_from_elsewhere_is_found_out(images, codes):
    ids = list(range(80))
    lesson = lesson_of(images, Guidance().label("shade", ids, codes[:80, 0].tolist()))
    honest, crossed = (terms(lesson, Painter(shade), images) for shade in (0, 1))
    assert set(lesson.readers) == {0}
    assert honest["guidance_obeyed"] < 0.05
    assert crossed["guidance_obeyed"] > 1.0
    assert honest["guidance_moved"] < 0.1 < 1 < crossed["guidance_moved"]
    assert honest["guidance_spread"] == crossed["guidance_spread"] < 0.25  # of the encoder, which is the same
    assert honest["guidance_kept"] < 1e-6


def test_zeros_and_ones_are_spread_and_read_too(images, codes):
    ids = list(range(80))
    lesson = lesson_of(
        images, Guidance().label("bright", ids, (codes[:80, 0] > 0).float()), names=("bright",)
    )
    honest, crossed = (terms(lesson, Painter(shade), images) for shade in (0, 1))
    assert lesson.readers[0].levels == (0.0, 1.0)
    assert honest["guidance_obeyed"] < 0.15 < 0.6 < crossed["guidance_obeyed"]
    turned = Painter()
    turned._encode = lambda prepared: -Painter._encode(turned, prepared)
    assert terms(lesson, turned, images)["guidance_spread"] > 5 * honest["guidance_spread"]


def test_two_other_values_are_places_in_standard_deviations(images, codes):
    values = (3 - 2 * (codes[:80, 0] < 0).float()).tolist()
    lesson = lesson_of(images, Guidance().label("bright", list(range(80)), values), names=("bright",))
    honest, crossed = (terms(lesson, Painter(shade), images) for shade in (0, 1))
    assert lesson.readers[0].levels not in (None, (0.0, 1.0))
    assert honest["guidance_obeyed"] < 0.7 < 1 < crossed["guidance_obeyed"]


def test_few_labels_are_learnt_but_not_spread(images, codes):
    lesson = lesson_of(images, Guidance().label("shade", list(range(10)), codes[:10, 0].tolist()))
    assert not lesson.teachers
    found = terms(lesson, Painter(), images)
    assert found["guidance_obeyed"] == 0
    assert "guidance_spread" not in found
    assert found["guidance_told"] < 0.3


def test_a_weight_of_nothing_leaves_a_part_out(images, codes):
    said = Guidance().label("shade", list(range(80)), codes[:80, 0].tolist())
    crossed, noise = Painter(1), torch.Generator().manual_seed(1)
    none = Weights(told=0.0, spread=0.0, moved=0.0, obeyed=0.0, apart=0.0, kept=0.0)
    assert float(lesson_of(images, said, weights=none)(crossed, images[:64], noise)[0]) == 0
    only = lesson_of(images, said, weights=Weights(0.0, 0.0, 0.0, 2.0, 0.0, 0.0))
    total, parts = only(crossed, images[:64], noise)
    torch.testing.assert_close(total, 2 * parts["guidance_obeyed"])
    assert total > 1


def test_gradients_of_the_reading_reach_the_decoder(images, codes):
    said = Guidance().label("shade", list(range(80)), codes[:80, 0].tolist())
    lesson = lesson_of(images, said, weights=Weights(0.0, 0.0, 0.0, 1.0, 0.0, 0.0))

    class Mixed(Painter):
        def __init__(self):
            super().__init__()
            self.share = torch.nn.Parameter(torch.tensor(0.5))

        def _decode(self, z):
            return self.share * Painter(0)._decode(z) + (1 - self.share) * Painter(1)._decode(z)

    mixed = Mixed()
    lesson(mixed, images[:64], torch.Generator().manual_seed(1))[0].backward()
    assert float(mixed.share.grad) < -0.01  # less error with more of the decoder that obeys
