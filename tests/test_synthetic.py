"""What is planted is recovered, exactly; what is not planted is absent."""

import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import ndimage, stats

from explainer.errors import OptionError
from explainer.synthetic import (
    CELL_CHANNELS,
    CELL_FACTORS,
    SPRITE_FACTORS,
    Factor,
    cells,
    render_cells,
    render_sprites,
    sprites,
)

BOTH = pytest.mark.parametrize(
    ("make", "render", "factors"),
    [(sprites, render_sprites, SPRITE_FACTORS), (cells, render_cells, CELL_FACTORS)],
    ids=["sprites", "cells"],
)


def row_of(kind: str, **changes: object) -> pd.DataFrame:
    """A table with one plain image: every factor in the middle, no mark, no tilt."""
    factors = SPRITE_FACTORS if kind == "sprite" else {**CELL_FACTORS, "texture": Factor(levels=(7,))}
    row = {name: factor.quantile(np.array(0.5)) for name, factor in factors.items()}
    row |= {"orientation": 0.0, "batch_mark": False} | changes
    return pd.DataFrame({name: np.atleast_1d(value) for name, value in row.items()})


@BOTH
class TestContract:
    @pytest.mark.parametrize("size", [16, 33, 40])
    def test_shapes_types_and_ranges(self, make, render, factors, size):
        planted = make(7, size=size, channels=3, batch_mark=0.5)
        assert planted.images.shape == (7, 3, size, size)
        assert planted.images.dtype == torch.float32
        assert 0 <= planted.images.min() < 0.15
        assert 0.5 < planted.images.max() <= 1
        assert planted.labels.dtype == torch.int64
        assert planted.labels.shape == (7,)
        assert len(planted) == len(planted.factors) == len(planted.attributes) == 7
        assert list(planted.attributes) == list(factors) == list(planted.factors)[: len(factors)]
        for name, mask in planted.masks.items():
            assert (mask.dtype, mask.shape) == (torch.bool, (7, size, size))
            if name != "batch_mark":
                assert mask.flatten(1).any(1).all(), name
        assert torch.equal(
            planted.masks["batch_mark"].flatten(1).any(1),
            torch.from_numpy(planted.factors["batch_mark"].to_numpy(copy=True)),
        )

    def test_same_seed_same_images_other_seed_others(self, make, render, factors):
        once, again, other = (make(20, size=16, channels=3, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(once.images, again.images)
        pd.testing.assert_frame_equal(once.factors, again.factors)
        assert (once.images != other.images).flatten(1).any(1).all()
        assert not np.array_equal(once.labels, other.labels)

    def test_rendering_again_and_one_by_one_gives_the_same_images(self, make, render, factors):
        planted = make(70, size=64, channels=3)  # more than one chunk
        images, masks = render(planted.factors, size=64, channels=3)
        assert torch.equal(images, planted.images)
        assert all(torch.equal(masks[name], mask) for name, mask in planted.masks.items())
        for i in (0, 31, 69):
            alone, _ = render(planted.factors[i : i + 1], size=64, channels=3)
            assert_allclose(alone[0], images[i], atol=1e-6)

    def test_table_is_not_changed_and_extra_columns_are_allowed(self, make, render, factors):
        table = make(5, size=16, channels=3).factors.assign(label=1)
        before = table.copy()
        render(table, size=16, channels=3)
        pd.testing.assert_frame_equal(table, before)

    def test_uint8_is_the_rounded_image(self, make, render, factors):
        planted, stored = (make(9, size=20, channels=3, dtype=t) for t in (torch.float32, torch.uint8))
        assert stored.images.dtype == torch.uint8
        assert torch.equal(stored.images, (255 * planted.images).round().to(torch.uint8))

    def test_values_fill_their_range_evenly(self, make, render, factors):
        table = make(1200, size=16, channels=3, batch_mark=0.25).factors
        for name, factor in factors.items():
            values = table[name].to_numpy()
            if name == "batch_mark":
                assert values.sum() == 300
            elif factor.levels:
                assert_allclose(
                    [(values == level).sum() for level in factor.levels], 1200 / len(factor.levels), atol=1
                )
            else:
                quantiles = (values - factor.low) / (factor.high - factor.low)
                assert_allclose(np.sort(quantiles), (np.arange(1200) + 0.5) / 1200, atol=0.5 / 1200)

    def test_factors_are_independent(self, make, render, factors):
        n = 3000
        planted = make(n, size=16, channels=3, batch_mark=0.5, seed=5)
        table = planted.factors.assign(label=planted.labels.numpy())
        table = table.apply(lambda column: pd.factorize(column, sort=True)[0])
        label_factor = "scale" if make is sprites else "nucleus_size"
        for a, b in combinations(table, 2):
            if {a, b} != {"label", label_factor}:
                assert abs(stats.spearmanr(table[a], table[b]).statistic) < 4 / np.sqrt(n), (a, b)

    def test_attributes_are_the_upper_halves(self, make, render, factors):
        planted = make(600, size=16, channels=3, batch_mark=0.5)
        shares = planted.attributes.mean()
        assert shares.drop("shape", errors="ignore").eq(0.5).all()
        if make is sprites:
            assert shares["shape"] == pytest.approx(1 / 3)
            assert planted.attributes["shape"].equals(planted.factors["shape"] == "heart")
        for name in set(factors) - {"shape", "batch_mark"}:
            high = planted.attributes[name]
            assert planted.factors[name][~high].max() < planted.factors[name][high].min()

    def test_default_label_is_balanced_and_above_the_median(self, make, render, factors):
        planted = make(501, size=16, channels=3)
        name = "scale" if make is sprites else "nucleus_size"
        assert abs(planted.labels.sum().item() - 250.5) == 0.5
        assert np.array_equal(planted.labels.numpy() == 1, factors[name].is_high(planted.factors[name]))


@BOTH
class TestAssociations:
    @pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
    def test_number_is_recovered_as_conditional_probability_and_phi(self, make, render, factors, probability):
        name = "shade" if make is sprites else "stain_gain"
        planted = make(1000, size=16, channels=3, correlation={name: probability})
        high, labels = planted.attributes[name].to_numpy(), planted.labels.numpy()
        assert labels.sum() == 500
        assert high[labels == 1].mean() == probability
        assert_allclose(high[labels == 0].mean(), 1 - probability)
        if 0 < probability < 1:
            assert_allclose(np.corrcoef(high, labels)[0, 1], 2 * probability - 1, atol=1e-12)
        values = planted.factors[name].to_numpy()
        factor = factors[name]
        assert np.array_equal(factor.is_high(values), high)
        assert values.min() - factor.low < 0.01 * (factor.high - factor.low)
        assert factor.high - values.max() < 0.01 * (factor.high - factor.low)

    def test_one_probability_per_class_to_the_nearest_image(self, make, render, factors):
        planted = make(77, size=16, channels=3, correlation={"batch_mark": (0.0, 0.5)})
        marked, labels = planted.factors["batch_mark"].to_numpy(), planted.labels.numpy()
        assert not marked[labels == 0].any()
        assert abs(marked[labels == 1].sum() - 0.5 * labels.sum()) <= 0.5

    def test_several_attributes_and_nothing_else(self, make, render, factors):
        n = 4000
        asked = {"x": 0.9, "batch_mark": 0.7, "orientation": 0.25}
        planted = make(n, size=16, channels=3, correlation=asked, seed=2)
        plain = make(n, size=16, channels=3, seed=2)
        assert torch.equal(planted.labels, plain.labels)
        labels = planted.labels.numpy()
        for name in factors:
            if name in asked:
                assert planted.attributes[name][labels == 1].mean() == pytest.approx(asked[name])
                assert planted.attributes[name][labels == 0].mean() == pytest.approx(1 - asked[name])
            else:  # the very same values
                assert planted.factors[name].equals(plain.factors[name])
        for k in (0, 1):
            within = planted.factors[labels == k]
            for a, b in combinations(asked, 2):
                statistic = stats.spearmanr(within[a], within[b].astype(float)).statistic
                assert abs(statistic) < 4 / np.sqrt(n / 2)
        high = planted.attributes["x"].to_numpy()
        in_class = planted.factors["x"][high & (labels == 1)], planted.factors["x"][high & (labels == 0)]
        assert stats.ks_2samp(*in_class).pvalue > 1e-3  # within the high half, no trace of the label

    def test_label_by_a_function_with_three_classes(self, make, render, factors):
        name = "shade" if make is sprites else "nucleus_intensity"
        low, high = factors[name].low, factors[name].high
        edges = low + (high - low) * np.array([0.2, 0.5])
        planted = make(
            100,
            size=16,
            channels=3,
            label=(name, lambda values: np.digitize(values, edges)),
            correlation={"x": (0.1, 0.5, 1.0)},
        )
        assert planted.labels.bincount().tolist() == [20, 30, 50]
        right = planted.attributes["x"].to_numpy()
        assert [int(right[planted.labels == k].sum()) for k in range(3)] == [2, 15, 50]
        with pytest.raises(OptionError, match=r"x needs probabilities .* one for each of 3 classes"):
            make(
                100,
                size=16,
                channels=3,
                label=(name, lambda v: np.digitize(v, edges)),
                correlation={"x": 0.8},
            )

    def test_the_mark_can_be_the_label(self, make, render, factors):
        planted = make(40, size=16, channels=3, label="batch_mark")
        assert planted.labels.sum() == 20
        assert np.array_equal(planted.labels.numpy() == 1, planted.factors["batch_mark"])


def test_label_shape_is_the_index_of_the_shape():
    planted = sprites(90, size=16, label="shape", correlation={"shade": (0, 0.5, 1)})
    assert planted.labels.bincount().tolist() == [30, 30, 30]
    names = np.array(SPRITE_FACTORS["shape"].levels)[planted.labels.numpy()]
    assert np.array_equal(names, planted.factors["shape"].to_numpy(str))


def test_spots_can_be_associated_although_they_are_counts():
    planted = cells(400, size=16, correlation={"spots": 0.9})
    spots, labels = planted.factors["spots"].to_numpy(), planted.labels.numpy()
    assert set(spots) == set(CELL_FACTORS["spots"].levels)
    assert (spots[labels == 1] >= 6).mean() == 0.9


class TestSprites:
    @pytest.mark.parametrize("shape", ["square", "ellipse", "heart"])
    @pytest.mark.parametrize("angle", [0.0, 0.7, 2.5])
    def test_area_centre_and_shade_are_as_written(self, shape, angle):
        table = row_of("sprite", shape=shape, scale=0.25, orientation=angle, x=0.55, y=0.4, shade=0.7)
        images, masks = render_sprites(table, size=64)
        cover = (images[0, 0].double().numpy() - 0.05) / (0.7 - 0.05)
        assert_allclose([cover.min(), cover.max()], [0, 1], atol=1e-6)
        assert_allclose(cover.sum() / 64**2, 0.25**2, rtol=0.01)
        assert_allclose(masks["sprite"].float().mean(), 0.25**2, rtol=0.03)
        down, across = ndimage.center_of_mass(cover)
        assert_allclose([(across + 0.5) / 64, (down + 0.5) / 64], [0.55, 0.4], atol=5e-4)

    def test_orientation_is_anticlockwise(self):
        images, _ = render_sprites(
            row_of("sprite", shape="ellipse", orientation=np.pi / 6, scale=0.3), size=65
        )
        down, across = np.indices((65, 65)) - 32
        weight = images[0, 0].numpy() - 0.05
        lean = (weight * down * across).sum() / (weight * across**2).sum()
        assert lean < -0.1  # right end up, and y points down
        spread = np.cov(np.stack([across.ravel(), -down.ravel()]), aweights=weight.ravel().clip(0))
        vector = np.linalg.eigh(spread)[1][:, 1]
        assert_allclose(np.arctan(vector[1] / vector[0]), np.pi / 6, atol=0.01)
        assert_allclose(np.sqrt(np.divide(*np.linalg.eigvalsh(spread)[::-1])), 2, rtol=0.02)

    def test_heart_stands_on_its_tip(self):
        _, masks = render_sprites(row_of("sprite", shape="heart", scale=0.3), size=65)
        width = masks["sprite"][0].sum(1)
        rows = width.nonzero().flatten()
        assert width[rows[-1]] <= 3
        assert width[rows[3]] > 10
        assert torch.equal(masks["sprite"], masks["sprite"].flip(2))
        column = masks["sprite"][0, :, 32].nonzero().flatten()
        assert column[0] > rows[0]  # the notch

    def test_edges_are_soft_and_close_to_a_supersampled_drawing(self):
        for shape in SPRITE_FACTORS["shape"].levels:
            table = row_of("sprite", shape=shape, scale=0.3, orientation=0.4, shade=1.0)
            images, _ = render_sprites(table, size=48)
            fine, _ = render_sprites(table, size=48 * 8)
            exact = fine.unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))
            assert (images - exact).abs().max() < 0.13, shape
            assert (images - exact).abs().mean() < 1e-3, shape
            between = ((images > 0.1) & (images < 0.95)).sum()
            assert between > 20, shape

    def test_no_sprite_leaves_the_frame_or_meets_the_mark(self):
        corners = [
            row_of("sprite", shape=shape, scale=0.3, x=x, y=y, orientation=angle, batch_mark=True)
            for shape in SPRITE_FACTORS["shape"].levels
            for x in (0.3, 0.7)
            for y in (0.3, 0.7)
            for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ]
        table = pd.concat(corners)
        for size in (32, 64):
            images, masks = render_sprites(table, size=size)
            _, bare = render_sprites(table.assign(batch_mark=False), size=size)
            assert torch.equal(masks["sprite"], bare["sprite"])
            assert not (masks["sprite"] & masks["batch_mark"]).any()
            border = torch.cat([images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :]], -1)
            assert_allclose(border, 0.05, atol=1e-6)

    def test_colours_differ_between_channels_and_share_the_shape(self):
        table = sprites(5, size=32).factors
        grey, _ = render_sprites(table, size=32)
        colour, _ = render_sprites(table, size=32, channels=3)
        shade = torch.from_numpy(table["shade"].to_numpy(np.float32))
        for channel, (tint, ground) in enumerate([(1, 0.05), (0.86, 0.07), (0.62, 0.11)]):
            cover = (grey[:, 0] - 0.05) / (shade[:, None, None] - 0.05)
            expected = ground + cover * (tint * shade[:, None, None] - ground)
            assert_allclose(colour[:, channel], expected, atol=1e-5)

    def test_a_thousand_in_less_than_a_second_or_so(self):
        start = time.process_time()
        planted = sprites(1_000, size=64, dtype=torch.uint8)
        assert planted.images.nbytes == 1_000 * 64 * 64
        assert time.process_time() - start < 3  # about .1 on an idle machine


class TestCells:
    def test_nucleus_size_and_elongation_are_as_written(self):
        for size, stretch in [(0.10, 1.0), (0.17, 1.0), (0.14, 1.8)]:
            table = pd.concat(
                [row_of("cell", nucleus_size=size, elongation=stretch, texture=seed) for seed in range(40)]
            )
            _, masks = render_cells(table, size=96)
            area = masks["nucleus"].float().mean((1, 2))
            assert_allclose(area.mean(), np.pi * size**2, rtol=0.03)
            whole = masks["nucleus"] | masks["cytoplasm"]
            assert_allclose(whole.float().mean(), np.pi * 0.3**2, rtol=0.03)
            axes = [
                np.sqrt(np.divide(*np.linalg.eigvalsh(np.cov(np.argwhere(cell.numpy()).T))[::-1]))
                for cell in whole
            ]
            if stretch == 1.8:
                assert_allclose(np.mean(axes), 1.8, rtol=0.05)

    def test_intensities_scale_their_own_channel(self):
        dim, bright = (render_cells(row_of("cell", nucleus_intensity=v), size=48)[0][0] for v in (0.25, 0.5))
        _, masks = render_cells(row_of("cell"), size=48)
        core = torch.from_numpy(ndimage.binary_erosion(masks["nucleus"][0].numpy(), iterations=3))
        ratio = (bright[0][core] - 0.04).mean() / (dim[0][core] - 0.04).mean()
        assert_allclose(ratio, 2, rtol=0.05)
        assert torch.equal(dim[1:], bright[1:])

    @pytest.mark.parametrize("count", [0, 2, 5, 9])
    def test_as_many_spots_as_written(self, count):
        table = pd.concat([row_of("cell", spots=count, texture=seed) for seed in range(12)])
        images, masks = render_cells(table, size=96)
        found = [ndimage.label(mask.numpy())[1] for mask in masks["spots"]]
        assert found == [count] * 12
        if count:
            inside = torch.stack([i[2][m].mean() for i, m in zip(images, masks["spots"], strict=True)])
            beside = torch.stack([i[2][~m].mean() for i, m in zip(images, masks["spots"], strict=True)])
            assert (inside > 5 * beside).all()

    def test_more_spots_leave_the_first_ones_in_place(self):
        _, few = render_cells(row_of("cell", spots=3), size=64)
        _, more = render_cells(row_of("cell", spots=7), size=64)
        assert (few["spots"] <= more["spots"]).all()

    def test_spots_lie_in_the_cytoplasm(self):
        masks = cells(200, size=64, seed=1).masks
        peaks = masks["spots"]
        assert (peaks & masks["cytoplasm"]).sum() / peaks.sum() > 0.95

    def test_gain_and_tilt_are_multiplicative(self):
        plain, gained, tilted = (
            render_cells(
                pd.concat([row_of("cell", **{"illumination_tilt": 0.0} | change)] * 1), size=64, channels=5
            )[0][0]
            for change in (
                {"stain_gain": 0.8},
                {"stain_gain": 1.2},
                {"stain_gain": 0.8, "illumination_tilt": 0.3},
            )
        )
        lit = plain > 0.15
        assert_allclose(((gained - 0.02)[lit] / (plain - 0.02)[lit]).mean(), 1.5, rtol=0.02)
        across = (torch.arange(64) + 0.5) / 64
        expected = (1 + 0.3 * (2 * across - 1)).expand_as(plain)
        left = (across < 0.4).expand_as(plain) & lit
        right = (across > 0.6).expand_as(plain) & lit
        for side in (left, right):
            assert_allclose((tilted / plain)[side].mean(), expected[side].mean(), rtol=0.01)
        assert (tilted / plain)[left].mean() < 0.98 < 1.02 < (tilted / plain)[right].mean()

    def test_channels_are_a_prefix(self):
        five = cells(6, size=32, channels=5)
        four = cells(6, size=32, channels=4)
        assert five.channel_names == CELL_CHANNELS
        assert four.channel_names == CELL_CHANNELS[:4]
        assert torch.equal(five.images[:, :4], four.images)

    def test_sizes_show_the_same_cells(self):
        table = cells(4, size=32).factors
        small, large = (render_cells(table, size=size)[0] for size in (48, 144))
        shrunk = torch.nn.functional.avg_pool2d(large, 3)
        assert (small - shrunk).abs().mean() < 0.015
        correlation = np.corrcoef(small.flatten(), shrunk.flatten())[0, 1]
        assert correlation > 0.97

    def test_hardly_a_pixel_saturates(self):
        images = cells(300, size=32, channels=5, seed=3).images
        assert (images >= 1).float().mean() < 1e-4
        assert (images.flatten(1).amax(1) > 0.3).all()

    def test_background_is_dark_and_noisy(self):
        images = cells(50, size=64).images[:, :, -6:, -6:]
        assert 0.01 < images.mean() < 0.05
        assert 0.004 < images.std() < 0.02


@BOTH
class TestReliance:
    """Changing one column changes that factor only, and only where its region says."""

    def test_only_the_region_of_a_factor_changes(self, make, render, factors):
        channels = 3 if make is sprites else 5
        planted = make(24, size=64, channels=channels, seed=9)
        for name, factor in factors.items():
            if not factor.region:
                continue
            upper = factor.levels[-1] if factor.levels else factor.high
            lower = factor.levels[0] if factor.levels else factor.low
            (low, low_masks), (high, high_masks) = (
                render(planted.factors.assign(**{name: value}), size=64, channels=channels)
                for value in (lower, upper)
            )
            changed = (low != high).any(1)
            assert changed.flatten(1).any(1).all(), name
            region = (low_masks[factor.region] | high_masks[factor.region]).numpy()
            margin = np.stack([ndimage.binary_dilation(mask, iterations=4) for mask in region])
            visible = ((low - high).abs().amax(1) > 0.01).numpy()
            assert not (visible & ~margin).any(), name
            for other in low_masks:
                if other == "batch_mark" and name != "batch_mark":
                    assert torch.equal(low_masks[other], high_masks[other])

    def test_every_factor_shows(self, make, render, factors):
        planted = make(12, size=32, channels=3, seed=2)
        for name, factor in factors.items():
            lower, upper = (factor.quantile(np.array(u)) for u in (0.1, 0.9))
            low, high = (
                render(planted.factors.assign(**{name: v.item()}), size=32, channels=3)[0]
                for v in (lower, upper)
            )
            assert ((low - high).abs().flatten(1).amax(1) > 0.03).all(), name


@BOTH
class TestHostileInputs:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n": 0}, r"n: must be a whole number of at least 1 \(received 0\)"),
            ({"n": 2.5}, "n: must be a whole number"),
            ({"seed": -1}, "seed: must be a whole number of at least 0"),
            ({"size": 8}, r"size: must be a whole number of at least 16 \(received 8\)"),
            ({"channels": 2}, r"channels: must be .* \(received 2\)"),
            ({"dtype": torch.float64}, "dtype: must be torch.float32 or torch.uint8"),
            ({"label": "colour"}, r"label: names no factor \(received colour\). Use one of .*batch_mark"),
            ({"correlation": {"colour": 0.5}}, "correlation: names no factor"),
            ({"label": "x", "correlation": {"x": 0.5}}, "correlation: names the factor the label is made of"),
            ({"correlation": {"x": 1.2}}, r"correlation: x needs probabilities in \[0, 1\].*received 1.2"),
            ({"correlation": {"x": float("nan")}}, "correlation: x needs probabilities"),
            ({"correlation": {"x": "high"}}, "correlation: x needs probabilities"),
            ({"correlation": {"x": (0.1, 0.2, 0.3)}}, "one for each of 2 classes"),
            ({"batch_mark": 1.5}, "batch_mark: .*Pass a share between 0 and 1"),
            ({"batch_mark": 0.5, "correlation": {"batch_mark": 0.5}}, "batch_mark: cannot be a share"),
            ({"batch_mark": 0.5, "label": "batch_mark"}, "batch_mark: cannot be a share"),
            ({"label": ("x", lambda v: v)}, r"label: the function must return .*received float64"),
            ({"label": ("x", lambda v: v[:2] > 0)}, r"label: the function .*shape \(2,\)"),
            (
                {"label": ("x", lambda v: np.sign(v - 0.5).astype(int))},
                "label: the function must return one class 0",
            ),
        ],
    )
    def test_options(self, make, render, factors, options, message):
        arguments = {"n": 4, "size": 16, "channels": 3} | options
        with pytest.raises(OptionError, match=message):
            make(arguments.pop("n"), **arguments)

    def test_tables(self, make, render, factors):
        table = make(3, size=16, channels=3).factors
        with pytest.raises(OptionError, match="factors: lacks the columns x, y"):
            render(table.drop(columns=["x", "y"]), size=16)
        with pytest.raises(OptionError, match="factors: has no rows"):
            render(table[:0], size=16)
        broken = table.assign(x=[0.5, float("nan"), 0.5])
        with pytest.raises(OptionError, match=r"factors: holds a value of x in row 1 .*received nan"):
            render(broken, size=16)
        with pytest.raises(OptionError, match=r"value of batch_mark in row 0 .*Use one of False, True"):
            render(table.assign(batch_mark=0.5), size=16)
        if make is sprites:
            with pytest.raises(
                OptionError, match=r"value of shape .*received star.*Use one of square, ellipse, heart"
            ):
                render(table.assign(shape="star"), size=16)
            with pytest.raises(OptionError, match="value of scale"):
                render(table.assign(scale=0.0), size=16)
        else:
            with pytest.raises(OptionError, match=r"value of spots .*received 2.5"):
                render(table.assign(spots=2.5), size=16)
