"""The loaders on real data; skipped where DGDD_TEST_DATA names no folder with them."""

from pathlib import Path

import pytest
import torch

from dgdd_fast.data import DomainDataset, load_dataset, load_folder, load_npz, summary
from dgdd_fast.data.benchmarks import PACS
from dgdd_fast.data.splits import find_lists, read_lists


def part_of(real_data: Path, name: str) -> Path:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def test_digits(real_data: Path) -> None:
    data = load_dataset(part_of(real_data, "digits"), domains=["mnist", "usps", "svhn_small"])
    assert data.domain_names == ("mnist", "svhn_small", "usps")
    assert data.resolution == (32, 32)
    assert data.class_names == tuple("0123456789")
    assert not data.flip_safe
    assert data.warnings == ()
    assert data.train().counts()[:, 0].tolist() == [600] * 10
    assert data.test().counts()[:, 0].tolist() == [200] * 10
    assert summary(data).images == len(data)


def test_pacs_arrays(real_data: Path) -> None:
    data = load_npz(part_of(real_data, "pacs"))
    assert data.class_names == PACS.classes
    assert set(data.domain_names) == set(PACS.domains)
    assert data.flip_safe
    for row, name in enumerate(data.item_names):
        domain, folder, _ = name.split("/")
        assert data.domain_names[int(data.domains[row])] == domain
        assert data.class_names[int(data.labels[row])] == folder


def rows_by_name(data: DomainDataset) -> dict[str, int]:
    return {name: row for row, name in enumerate(data.item_names)}


def test_the_pacs_files_agree_with_the_arrays(real_data: Path) -> None:
    files = load_folder(part_of(real_data, "pacs_imagefolder_sample"))
    arrays = load_npz(part_of(real_data, "pacs"))
    assert files.resolution == (64, 64)
    assert files.class_names == arrays.class_names
    assert files.counts().tolist() == [[30] * 4] * 7
    place = rows_by_name(arrays)
    rows = torch.tensor([place[name] for name in files.item_names])
    assert torch.equal(files.labels, arrays.labels[rows])
    assert torch.equal(files.domains, arrays.domains[rows])
    difference = (files.images.int() - arrays.images[rows].int()).abs()
    assert difference.float().mean() < 0.5  # another JPEG decoder may round in another way


def test_the_official_pacs_lists_count_from_one_and_agree_with_the_names(real_data: Path) -> None:
    folder = part_of(real_data, "pacs")
    texts = sorted((folder / "splits").glob("*.txt"))
    arrays = load_npz(folder)
    place = rows_by_name(arrays)
    for domain in PACS.domains:
        found = find_lists(texts, domain)
        assert found is not None
        lists = read_lists(*found, domain, PACS.classes)
        assert lists.first_number == 1
        assert lists.doubtful == ()
        listed = {f"{domain}/{item}" for item, is_test in lists.is_test.items() if not is_test}
        assert listed == {name for name in place if name.startswith(f"{domain}/")}


def test_the_pacs_files_with_the_official_lists(real_data: Path, tmp_path: Path) -> None:
    sample, splits = part_of(real_data, "pacs_imagefolder_sample"), part_of(real_data, "pacs") / "splits"
    (tmp_path / "kfold").symlink_to(sample)
    (tmp_path / "splits").symlink_to(splits)
    data = load_folder(tmp_path)
    assert len(data) == 840  # the sample was drawn from the train lists
    assert not data.is_test.any()
    assert any("count the classes from 1" in warning for warning in data.warnings)
    assert any("listed images that are not there" in warning for warning in data.warnings)
    assert any("no image in its test part" in warning for warning in data.warnings)
