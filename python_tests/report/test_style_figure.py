"""Styles in the plane: every image at its place, with UMAP and without."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from toy_data import toy_domains

from dgdd_fast.config import DistillConfig
from dgdd_fast.data import DomainDataset, normalise
from dgdd_fast.data.pseudo_domains import style_network, style_of
from dgdd_fast.distillation import distill
from dgdd_fast.report.features import STYLE_NETWORK, feature_figure
from dgdd_fast.synthetic.distilled_set import DistilledSet


class FirstTwo:
    """Stands in for UMAP: the plane is that of the first two coordinates. Keeps what it is handed."""

    made: list[FirstTwo]

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.fitted: list[np.ndarray] = []
        self.transformed: list[np.ndarray] = []
        self.made.append(self)

    def fit_transform(self, styles: np.ndarray) -> np.ndarray:
        self.fitted.append(styles)
        return styles[:, :2]

    def transform(self, styles: np.ndarray) -> np.ndarray:
        self.transformed.append(styles)
        return styles[:, :2]


@pytest.fixture(scope="module")
def data() -> DomainDataset:
    return toy_domains()


@pytest.fixture(scope="module")
def sets(data: DomainDataset) -> dict[str, DistilledSet]:
    """Real images of two domains, so that it is known where they must lie."""
    sources = data.leave_out("domain1").sources_train
    return {
        f"seed {seed}": distill(sources, DistillConfig(objective="random", ipc=4, seed=seed))
        for seed in (0, 1)
    }


def dots_and_stars(axes: Axes, domains: int) -> tuple[list[Any], list[Any]]:
    return list(axes.collections[:domains]), list(axes.collections[domains:])


def check_panels(figure: Figure, data: DomainDataset, sets: dict[str, DistilledSet]) -> None:
    """A panel for each set, dots of every domain, and stars coloured as the dots of their domain."""
    assert [axes.get_title() for axes in figure.axes] == list(sets)
    for axes, images in zip(figure.axes, sets.values(), strict=True):
        dots, stars = dots_and_stars(axes, data.num_domains)
        assert [dot.get_label() for dot in dots] == ["domain0", "domain1 (held out)", "domain2"]
        assert [len(dot.get_offsets()) for dot in dots] == data.counts().sum(0).tolist()
        colours = [tuple(dot.get_facecolor()[0][:3]) for dot in dots]
        assert colours == [to_rgb("C0"), to_rgb("0.6"), to_rgb("C2")]
        assert images.domain_names == ("domain0", "domain2")
        assert [tuple(star.get_facecolor()[0][:3]) for star in stars] == [to_rgb("C0"), to_rgb("C2")]
        assert [len(star.get_offsets()) for star in stars] == images.domains.bincount().tolist()


def is_among(points: np.ndarray, others: np.ndarray) -> bool:
    distances = np.linalg.norm(points[:, None] - others[None], axis=-1).min(1)
    return bool(distances.max() < 1e-4 * np.abs(others).max())


def check_real_stars_lie_on_dots(figure: Figure, data: DomainDataset) -> None:
    places = []
    for axes in figure.axes:
        dots, stars = dots_and_stars(axes, data.num_domains)
        zero, held_out, two = (np.asarray(dot.get_offsets()) for dot in dots)
        for star, own, other in zip(stars, (zero, two), (two, zero), strict=True):
            points = np.asarray(star.get_offsets())
            assert is_among(points, own)
            assert not is_among(points, other)
            assert not is_among(points, held_out)
        places.append(np.concatenate([star.get_offsets() for star in stars]))
    assert not is_among(*places)  # every panel shows its own set


def test_umap_gets_standardised_styles_and_its_plane_is_drawn(
    data: DomainDataset, sets: dict[str, DistilledSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    umap = ModuleType("umap")
    umap.UMAP = FirstTwo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", umap)
    monkeypatch.setattr(FirstTwo, "made", [], raising=False)
    figure = feature_figure(data, sets, "domain1")
    (estimator,) = FirstTwo.made
    assert estimator.settings == {"n_components": 2, "random_state": 0, "n_jobs": 1}
    (real,) = estimator.fitted
    convnet, first = style_network(data.resolution, STYLE_NETWORK, 0), sets["seed 0"]
    styles = style_of(convnet, normalise(data.images, first.mean, first.std)).double().numpy()
    scaled = (styles - styles.mean(0)) / np.maximum(styles.std(0), 1e-12)
    assert real.shape == scaled.shape
    np.testing.assert_allclose(np.sort(real, 0), np.sort(scaled, 0), atol=1e-4)
    for found, images in zip(estimator.transformed, sets.values(), strict=True):
        synthetic = style_of(convnet, images.training_images.images).double().numpy()
        expected = (synthetic - styles.mean(0)) / np.maximum(styles.std(0), 1e-12)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    check_panels(figure, data, sets)
    check_real_stars_lie_on_dots(figure, data)
    for domain, dots in enumerate(figure.axes[0].collections[:3]):
        expected = scaled[(data.domains == domain).numpy(), :2]
        np.testing.assert_allclose(np.sort(dots.get_offsets(), 0), np.sort(expected, 0), atol=1e-4)
    assert figure.legends[0].get_title().get_text().startswith("UMAP of the styles")


def test_without_umap_the_plane_is_that_of_the_principal_components(
    data: DomainDataset, sets: dict[str, DistilledSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    figure = feature_figure(data, sets, "domain1")
    check_panels(figure, data, sets)
    check_real_stars_lie_on_dots(figure, data)
    dots = np.concatenate([dots.get_offsets() for dots in figure.axes[0].collections[:3]])
    across, along = dots.var(0)
    assert across > along
    assert abs(np.corrcoef(dots.T)[0, 1]) < 1e-6
    assert figure.legends[0].get_title().get_text().startswith("PCA of the styles")


@pytest.mark.slow
def test_the_real_umap_keeps_styles_together(data: DomainDataset, sets: dict[str, DistilledSet]) -> None:
    pytest.importorskip("umap", reason="needs the extra dgdd-fast[umap]")
    figure, again = (feature_figure(data, sets, "domain1") for _ in range(2))
    assert figure.legends[0].get_title().get_text().startswith("UMAP of the styles")
    check_panels(figure, data, sets)
    drawn, repeated = (
        [np.asarray(points.get_offsets()) for axes in one.axes for points in axes.collections]
        for one in (figure, again)
    )
    for points, same in zip(drawn, repeated, strict=True):
        assert np.isfinite(points).all()
        np.testing.assert_array_equal(points, same)
    # The domains differ in colour and contrast, so an image's neighbour is mostly of its own.
    dots = np.concatenate(drawn[:3])
    domains = np.repeat(np.arange(3), [len(points) for points in drawn[:3]])
    distances = np.linalg.norm(dots[:, None] - dots[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (domains[distances.argmin(1)] == domains).mean() > 0.8
