"""Toy data, and a finished pool of experts for them."""

import pytest
from small_experts import TINY
from toy_data import toy_domains

from dgdd_fast.experts.pretrain import pretrain


@pytest.fixture(scope="module")
def data():
    return toy_domains()


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A finished pool."""
    path = tmp_path_factory.mktemp("experts")
    pretrain(data, TINY, path)
    return path
