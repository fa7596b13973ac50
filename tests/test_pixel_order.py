"""Orders of pixels and superpixels, ties, and the orders to compare with."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from explainer.errors import OptionError
from explainer.pixel_order import another_image, edges, pixels, require_relevance, same_spectrum, superpixels


def test_places_count_from_the_most_relevant() -> None:
    units = pixels(torch.zeros(1, 3, 2, 2))
    places = units.places(np.array([[[0.1, 0.9], [0.5, -1.0]]]), range(1), seed=0)
    assert places.tolist() == [[[2, 0], [1, 3]]]


def test_ties_are_random_but_seeded_and_do_not_disturb_the_rest() -> None:
    units = pixels(torch.zeros(2, 1, 4, 4))
    relevance = np.zeros((2, 4, 4))
    relevance[:, 0, 0] = 1
    first, again, other = (units.places(relevance, range(2), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert first[:, 0, 0].tolist() == [0, 0]
    assert sorted(first[0].flatten().tolist()) == list(range(16))
    # An image's order does not depend on which others are asked with it.
    assert torch.equal(first[1:], units.places(relevance[1:], range(1, 2), seed=1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_superpixels_are_ordered_by_their_mean(channels: int) -> None:
    images = torch.zeros(2, channels, 24, 24)
    images[:, :, :, 12:] = 1
    images[:, 0, 12:] += 0.3
    units = superpixels(images, 16)
    assert 4 <= units.counts.min() <= units.counts.max() <= 40
    relevance = np.random.default_rng(0).random((2, 24, 24))
    places = units.places(relevance, range(2), seed=0).numpy()
    for row in range(2):
        means = [relevance[row][places[row] == k].mean() for k in range(units.counts[row])]
        assert means == sorted(means, reverse=True)
    with pytest.raises(OptionError, match="superpixels: must be at least 2"):
        superpixels(images, 1)


def test_edges_lie_on_the_edge() -> None:
    images = torch.zeros(1, 2, 9, 9)
    images[:, :, :, 5:] = torch.tensor([1.0, 0.001]).view(1, 2, 1, 1)  # a dim channel counts as much
    found = edges(images)[0]
    assert found[:, 4:6].min() > 10 * found[:, [0, 1, 2, 7, 8]].max()
    assert_allclose(found[4, 4], 2 * edges(images[:, :1])[0, 4, 4])


def test_every_image_gets_the_map_of_another() -> None:
    relevance = np.arange(7.0)[:, None, None] * np.ones((1, 2, 2))
    swapped = another_image(relevance, seed=0)[:, 0, 0]
    assert sorted(swapped) == list(range(7))
    assert (swapped != np.arange(7)).all()
    with pytest.raises(OptionError, match="images: must be several"):
        another_image(relevance[:1], seed=0)


def test_random_phases_keep_the_spectrum() -> None:
    relevance = np.random.default_rng(0).random((2, 8, 10)).cumsum(axis=2)
    found = same_spectrum(relevance, seed=0)
    assert found.dtype == np.float64
    assert_allclose(np.abs(np.fft.fft2(found)), np.abs(np.fft.fft2(relevance)), atol=1e-9)
    assert abs(np.corrcoef(found[0].ravel(), relevance[0].ravel())[0, 1]) < 0.9
    assert_allclose(found, same_spectrum(relevance, seed=0))


def test_maps_are_checked() -> None:
    maps = torch.ones(2, 3, 4, 4)
    assert_allclose(require_relevance("a", maps, (2, 3, 4, 4)), 3)
    with pytest.raises(OptionError, match="saliencies: a must have one map for each image"):
        require_relevance("a", maps[:1], (2, 3, 4, 4))
    maps[0, 0, 0, 0] = torch.nan
    with pytest.raises(OptionError, match=r"a holds values that are not finite \(received 1 of 32\)"):
        require_relevance("a", maps, (2, 3, 4, 4))
