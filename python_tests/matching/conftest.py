"""Experts for the toy data, which nobody trained."""

from __future__ import annotations

import pytest
from expert_matching_cases import DATA
from toy_experts import toy_experts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy_experts(tmp_path_factory.mktemp("experts"), DATA))
