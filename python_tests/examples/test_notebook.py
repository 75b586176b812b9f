"""The notebook's cells, executed in order as Python: no Jupyter is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples" / "from_pictures_to_a_network.ipynb"


def test_it_leads_from_a_folder_of_pictures_to_a_network_that_tells_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGDD_CACHE", "off")
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    scope: dict[str, Any] = {}
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # what it prints is what whoever runs it sees
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), scope)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(
        scope["digits"].domain_names
    )
    assert "street" not in scope["sources"].domain_names
    with Image.open(tmp_path / "before_and_after.png") as sheet:
        assert min(sheet.size) > 16
    assert 0.25 < scope["result"]["distilled"] <= 1.0  # chance is 0.1
    assert scope["result"]["real"] > 0.1
