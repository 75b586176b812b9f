"""Networks of timm and torchvision: stand-ins for both, and they themselves where they are installed."""

import dataclasses
import sys

import pytest
import torch
from fake_libraries import install
from small_runs import SMALL, toy_set
from toy_data import toy_domains, write_npz

from dgdd_fast.config import EvaluateConfig, NetworkConfig, from_dict, to_dict
from dgdd_fast.distillation import distill
from dgdd_fast.evaluation import Evaluation, evaluate
from dgdd_fast.experiments.grid import Workers, read_index, run_grid
from dgdd_fast.experiments.study import study_from_dict
from dgdd_fast.extras import MissingExtraError
from dgdd_fast.networks import (
    build_network,
    describe_network,
    has_stages,
    initialise,
    network_bytes,
    resolve_network,
    rows_per_chunk,
)

NAMES = ("timm:resnet18", "torchvision:resnet18")


@pytest.fixture
def libraries(monkeypatch):
    return install(monkeypatch)


def built(name, classes=7, side=32, seed=0):
    network = build_network(classes, (side, side), NetworkConfig(architecture=name))
    initialise(network, torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_is_ours_and_of_the_right_size(libraries, name):
    network = built(name)
    assert (network.classifier.in_features, network.classifier.out_features) == (network.feature_dim, 7)
    assert network.feature_dim == (24 if name.startswith("timm") else 9)
    images = torch.randn(3, 3, 32, 32)
    assert network(images).shape == (3, 7)
    network.eval()
    torch.testing.assert_close(network(images), network.classifier(network.features(images)))
    assert rows_per_chunk(network, torch.device("cpu")) == 8 * 2**20 // (4 * 6 * 30 * 30)
    assert network_bytes(7, (32, 32), NetworkConfig(architecture=name)) == sum(
        4 * parameter.numel() for parameter in network.parameters()
    )
    assert not has_stages(name)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_dropout_follow_from_the_seed_and_disturb_nobody_elses(libraries, name):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    untouched = torch.rand(3)
    torch.manual_seed(1)
    first, again, other = built(name), built(name), built(name, seed=1)
    passes = [network(images) for network in (first, again, other)]
    second_pass = first(images)
    assert torch.equal(torch.rand(3), untouched)
    for parameter, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, same)
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])
    assert not torch.equal(passes[0], second_pass)  # other values dropped


def test_transformers_are_built_for_the_size_of_the_images(libraries):
    timm, torchvision = libraries
    built("timm:transformer", side=16)
    assert timm.calls[-1] == ("transformer", {"img_size": (16, 16)})
    built("torchvision:vit_b", side=16)
    assert torchvision.sizes[-1] == {"image_size": 16}
    built("torchvision:resnet18", side=16)
    assert torchvision.sizes[-1] == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "timm:resnet19"}, r"timm has no network 'resnet19'; did you mean timm:resnet18"),
        ({"architecture": "torchvision:xyz"}, r"torchvision has no network 'xyz'$"),
        ({"architecture": "timm:resnet18", "width": 32}, "network.width is a setting of our own networks"),
        ({"architecture": "timm:resnet18", "depth": 3}, "network.depth is a setting"),
        ({"architecture": "timm:resnet18", "norm": "none"}, "network.norm is a setting"),
        ({"architecture": "torchvision:squeezenet"}, "does not end in a linear layer"),
        ({"architecture": "torchvision:maps"}, "gives no single feature vector"),
        ({"architecture": "timm:"}, "architecture must be one of"),
        ({"architecture": "keras:resnet18"}, "architecture must be one of"),
    ],
)
def test_what_there_is_not_is_refused(libraries, config, message):
    with pytest.raises(ValueError, match=message):
        build_network(3, (32, 32), from_dict(NetworkConfig, config))


def test_images_that_are_too_small_are_refused(libraries):
    with pytest.raises(ValueError, match="timm:resnet18 cannot take images of 2 x 2 px"):
        built("timm:resnet18", side=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dgdd-fast\[networks\]'"):
        resolve_network(NetworkConfig(architecture=name), (32, 32))


def test_a_library_for_another_torch_is_said_to_be_that(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"timm is installed but cannot be loaded .*belongs to torch"):
        resolve_network(NetworkConfig(architecture="timm:resnet18"), (32, 32))


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_with_one_repeats_and_is_read_without_the_library(libraries, monkeypatch, name):
    data = toy_domains(per_cell=4)
    config = EvaluateConfig(runs=1, epochs=2, network=NetworkConfig(architecture=name))
    first, again = (evaluate(toy_set(data, 2), {"all": data}, config) for _ in range(2))
    assert first.accuracies == again.accuracies
    assert f"resnet18 of {name.partition(':')[0]}, trained from scratch" in first.description
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    assert Evaluation.from_dict(first.to_dict()) == first
    assert to_dict(first.config.network)["architecture"] == name
    assert describe_network(first.config.network) in first.description


def test_distilling_with_one_says_what_is_missing(libraries):
    config = dataclasses.replace(SMALL, network=NetworkConfig(architecture="timm:resnet18"))
    with pytest.raises(ValueError, match=r"resnet18 is for evaluation only: .*distil with one of convnet"):
        distill(toy_domains(per_cell=4), config)


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18", "timm:vit_tiny_patch16_224", "torchvision:resnet18", "torchvision:mobilenet_v3_small"],
)
def test_the_libraries_themselves(name):
    library = name.partition(":")[0]
    pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    data = toy_domains(per_cell=4, side=32)
    config = EvaluateConfig(runs=1, epochs=1, network=NetworkConfig(architecture=name))
    first, again = (evaluate(toy_set(data, 2), {"all": data}, config) for _ in range(2))
    assert first.accuracies == again.accuracies
    assert first.config.network.norm == "batch"


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_three_lines_train_a_network_of_the_library(library):
    module = pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    images, labels, _ = toy_set(toy_domains(side=32)).training_images
    classes = int(labels.max()) + 1
    create = module.create_model if library == "timm" else module.models.get_model
    network = create("resnet18", num_classes=classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_grid_tests_in_them_and_its_folders_are_for_any_file_system(libraries, tmp_path):
    (tmp_path / "data").mkdir()
    write_npz(toy_domains(), tmp_path / "data")
    study = study_from_dict(
        {
            "data": str(tmp_path / "data"),
            "targets": ["domain0"],
            "methods": ["random"],
            "ipc": [3],
            "seeds": [0],
            "evaluate": {"epochs": 1, "runs": 1, "network": {"architecture": "torchvision:resnet18"}},
        }
    )
    outcome = run_grid(study, tmp_path / "grid", Workers(), lambda report: None)
    assert outcome.failures == {}
    index = read_index(tmp_path / "grid")
    (report,) = (index.evaluation(entry.file) for entry in index.entries)
    assert report["description"].startswith("resnet18 of torchvision")
    names = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "grid").rglob("*")]
    assert not [name for name in names if set(name) & set('<>:"\\|?*')]
