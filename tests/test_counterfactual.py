"""Measures of a counterfactual, solved by hand."""

import pytest
import torch
from numpy.testing import assert_allclose

from explainer.counterfactual import changed_share, cout, distance, latent_closeness
from explainer.errors import ImageError, OptionError


def row(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def test_cout_by_hand():
    # Only the pixel of the largest change counts: p is 0, then 1 from the first swap on.
    image, other = row(0.0, 0.0, 0.0, 0.0), row(0.2, 0.9, 0.1, 0.3)
    decides = lambda images: (images[:, 0, 0, 1] > 0.5).float()  # noqa: E731
    # p - (1 - p) is -1, 1, 1, 1, 1 in quarters: trapezoids 0, 1/4, 1/4, 1/4.
    assert_allclose(cout(image, other, decides, steps=4), [0.75])
    last = lambda images: (images[:, 0, 0, 2] > 0.05).float()  # noqa: E731
    assert_allclose(cout(image, other, last, steps=4), [-0.75])
    never = lambda images: torch.zeros(len(images))  # noqa: E731
    assert_allclose(cout(image, other, never), [-1.0])


def test_cout_with_the_probability_of_what_it_was_and_with_weights():
    images = torch.zeros(1, 2, 1, 2)
    other = torch.tensor([[[[0.5, 0.0]], [[0.0, 0.4]]]])
    first = lambda x: (x[:, 0, 0, 0] > 0).float()  # noqa: E731
    assert_allclose(cout(images, other, first, against=lambda x: torch.zeros(len(x)), steps=2), [0.75])
    heavy = torch.tensor([1.0, 10.0])  # now the second pixel comes first
    assert_allclose(
        cout(images, other, first, against=lambda x: torch.zeros(len(x)), weights=heavy, steps=2), [0.25]
    )


def test_cout_of_a_batch_is_that_of_each():
    random = torch.Generator().manual_seed(0)
    images, others = (torch.rand(3, 2, 6, 5, generator=random) for _ in range(2))
    kept = images.clone()
    score = lambda x: (x[:, 0].mean(dim=(1, 2)) * 4 - 2).sigmoid()  # noqa: E731
    together = cout(images, others, score)
    apart = torch.cat([cout(images[i : i + 1], others[i : i + 1], score) for i in range(3)])
    assert_allclose(together, apart, atol=1e-6)
    assert torch.equal(images, kept)


def test_distances_by_hand():
    image, other = row(0.0, 0.5, 1.0, 1.0), row(0.0, 0.75, 1.0, 0.0)
    assert_allclose(distance(image, other), [0.3125])
    assert_allclose(changed_share(image, other), [0.5])
    assert_allclose(changed_share(image, other, threshold=0.5), [0.25])
    assert_allclose(latent_closeness(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])), [0.6])


def test_what_is_refused():
    with pytest.raises(ImageError, match=r"counterfactuals: must be one for each image, \(1, 1, 1, 2\)"):
        distance(row(0.0, 1.0), row(0.0))
    with pytest.raises(OptionError, match="steps: must be at least 1"):
        cout(row(0.0), row(1.0), lambda x: x.mean(dim=(1, 2, 3)), steps=0)
