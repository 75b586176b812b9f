"""The roofline: operations and bytes that its axes count, and which rows it draws."""

import json
import sys
from pathlib import Path

import pytest
import roofline
from spectral_shapes import Case

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def cuda_table() -> dict:
    """What the benchmark leaves on CUDA, in two regimes."""
    times = {name: {"median": 0.1, "p20": 0.1, "p80": 0.1} for name in roofline.LOOKS}
    rows = [
        {
            "case": {
                "operator": "spectral_surgery",
                "images": 10,
                "size": size,
                "dtype": dtype,
                "domains": domains,
                "regime": regime,
            },
            "threads": None,
            "cache": cache,
            "times": times,
        }
        for regime, size in (("one class", 32), ("general", 224))
        for domains in (3, 8)
        for dtype in ("float32", "bfloat16")
        for cache in ("warm", "flushed")
    ]
    return {
        "device": "a chip",
        "commit": "0123",
        "torch": "2.11",
        "copy_gigabytes_per_second": {"cuda": 4000.0},
        "matmul_gigaflops_per_second": {"cuda": 50000.0},
        "rows": rows,
    }


@pytest.mark.parametrize(("size", "million"), [(32, 0.28), (64, 1.28), (128, 5.77)])
def test_operations_of_a_pair_of_planes_are_those_of_the_readme(size: int, million: float) -> None:
    assert 2 * roofline.operations(size, domains=3) / 1e6 == pytest.approx(million, abs=0.005)


def test_bytes_are_those_of_the_benchmark() -> None:
    for domains in (3, 8):
        case = {"images": 7, "size": 64, "domains": domains}
        assert (
            roofline.necessary_bytes(case)
            == Case("spectral_surgery", 7, 64, "float32", domains).essential_bytes
        )


def test_a_panel_for_each_regime_with_warm_float32_rows_only() -> None:
    chosen = roofline.panels(cuda_table())
    assert chosen.keys() == {"one class", "general"}
    for rows in chosen.values():
        assert [row["case"]["domains"] for row in rows] == [3, 8]
        assert {row["cache"] for row in rows} == {"warm"}


def test_both_roofs_and_every_provider_are_drawn() -> None:
    figure = roofline.draw(cuda_table())
    for axes in figure.axes:
        copy, matmul = axes.get_lines()
        assert list(copy.get_ydata()) == [4000.0, 4000.0]
        assert list(matmul.get_xdata() * matmul.get_ydata()) == pytest.approx([50000.0] * 2)
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {name for name, _, _ in roofline.LOOKS.values()}


def test_the_committed_cpu_table_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "roofline.png"
    monkeypatch.setattr(sys, "argv", ["roofline.py", str(RESULTS / "spectral_cpu.json"), str(picture)])
    roofline.main()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_parts_of_different_runs_are_not_drawn_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for commit in ("0123", "4567"):
        paths.append(tmp_path / f"{commit}.json")
        paths[-1].write_text(json.dumps({**cuda_table(), "commit": commit}))
    monkeypatch.setattr(sys, "argv", ["roofline.py", *map(str, paths), str(tmp_path / "roofline.png")])
    with pytest.raises(SystemExit, match="commit is 0123 and 4567"):
        roofline.main()
    with pytest.raises(ValueError, match="no rows"):
        roofline.draw({**cuda_table(), "rows": []})
