"""The pictures of a gradient decomposition and the demonstration that draws one."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import toy_domains

from dgdd_fast.analysis.decomposition import decompose_images
from dgdd_fast.commands.demo import DemoConfig, run_demo
from dgdd_fast.config import DistillConfig, EvaluateConfig, NetworkConfig, SurgeryConfig, from_dict
from dgdd_fast.data.pseudo_domains import with_pseudo_domains
from dgdd_fast.data.real_images import RealImages
from dgdd_fast.distillation import distill
from dgdd_fast.matching.feature_matching import FeatureMatching
from dgdd_fast.report.figures import draw_decomposition, full_resultant_length
from dgdd_fast.surgery import Decomposition
from dgdd_fast.synthetic.distilled_set import DistilledSet
from dgdd_fast.synthetic.mosaics import tiles

TINY = NetworkConfig(width=8)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 5), (1, 4)])
def test_the_half_spectrum_unfolds_to_the_full_one(shape):
    gradient = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = torch.fft.fftshift(torch.fft.fft2(gradient).abs(), dim=(-2, -1))
    half = torch.fft.rfft2(gradient).abs()
    torch.testing.assert_close(full_resultant_length(half, shape[1]), full)


# Of one class every pseudo-domain has an image.
@pytest.mark.parametrize(("classes", "settings"), [(3, {}), (3, {"factor": 2}), (1, {"pseudo_domains": 2})])
def test_the_parts_of_an_image_add_up_to_its_domain_gradient(classes, settings):
    sources = toy_domains(domains=3, classes=classes)
    surgery = DistillConfig(ipc=9 // classes, iterations=1, network=TINY, surgery=SurgeryConfig(), **settings)
    distilled = distill(sources, surgery)
    rows = [0, 4, 8]
    parts = decompose_images(distilled, sources, rows)
    config = from_dict(DistillConfig, distilled.config)
    mean, std = torch.tensor(distilled.mean), torch.tensor(distilled.std)
    if config.pseudo_domains:
        sources = with_pseudo_domains(sources, 2, config.network, config.seed)
    matching = FeatureMatching(RealImages(sources, mean, std, torch.device("cpu")), config)
    gradients = matching.gradients(tiles(distilled.images, distilled.factor), 1, by_domain=True)
    own = gradients.by_domain[distilled.domains[rows], rows]
    torch.testing.assert_close(parts.class_signal + parts.domain_signal, own)
    torch.testing.assert_close(parts.union, gradients.union_gradient()[rows])


def test_an_empty_cell_has_no_decomposition():
    sources = toy_domains(domains=2)
    sources = sources.select((sources.labels != 0) | (sources.domains != 0))
    distilled = distill(sources, DistillConfig(objective="random", ipc=2, network=TINY))
    with pytest.raises(ValueError, match="no image in one of the domains"):
        decompose_images(distilled, sources, [0])


def test_the_picture_shows_the_images_as_they_are(tmp_path):
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 2] = 201, 77
    zero = torch.zeros(2, 3, 4, 4)
    parts = Decomposition(zero, zero, zero, torch.zeros(2, 3, 4, 3))
    draw_decomposition(tmp_path / "picture.png", pixels, parts, ["first", "second"])
    colours = {
        tuple(colour)
        for colour in np.array(Image.open(tmp_path / "picture.png").convert("RGB")).reshape(-1, 3)
    }
    assert {(201, 0, 0), (0, 0, 77)} <= colours


def test_the_demonstration_compares_methods_and_mosaics_and_writes_what_it_says(tmp_path, capsys):
    config = DemoConfig(
        target="warped",
        seeds=(0, 1),
        distill=DistillConfig(ipc=4, iterations=1, batch_real=2, network=TINY),
        evaluate=EvaluateConfig(runs=1, epochs=1, network=TINY),
    )
    results = run_demo(tmp_path, config)
    assert list(results) == ["random", "dm", "dm+sgs", "random, mosaics", "dm, mosaics"]
    assert all(len(runs) == 2 for result in results.values() for runs in result.accuracies.values())
    files = {method: tmp_path / f"{method.replace(', ', '-')}.safetensors" for method in results}
    sets = {method: DistilledSet.load(file) for method, file in files.items()}
    assert not torch.equal(sets["dm"].images, sets["dm+sgs"].images)
    assert {distilled.ipc for distilled in sets.values()} == {4}
    assert {distilled.images.shape for distilled in sets.values()} == {(40, 3, 32, 32)}
    assert [distilled.factor for distilled in sets.values()] == [1, 1, 1, 2, 2]
    assert not torch.equal(sets["dm, mosaics"].images, sets["random, mosaics"].images)
    for name in ("random.png", "dm.png", "dm+sgs.png", "dm-mosaics.png", "decomposition.png"):
        assert Image.open(tmp_path / name).width > 100
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["config"]["target"] == "warped"
    told = capsys.readouterr().out
    assert "reduced" in told
    assert "On warped (held out), by seed, with the 95 % interval:" in told
    test = "warped (held out)"
    gains = [
        one - other
        for one, other in zip(results["dm+sgs"].accuracies[test], results["dm"].accuracies[test], strict=True)
    ]
    assert f"DM+SGS minus DM: {sum(gains) / 2:+.1f} (" in told
    assert "DM, mosaics minus Random, mosaics: " in told


def test_every_method_of_the_demonstration_has_the_same_budget():
    configs = DemoConfig().methods().values()
    alike = {dataclasses.replace(config, objective="dm", surgery=None, factor=None) for config in configs}
    assert len(alike) == 1
