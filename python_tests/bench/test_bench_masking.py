"""The benchmark of the masking of channels: what it measures, what it counts, and what it refuses to time."""

import dataclasses
import json
import sys
from pathlib import Path

import bench_masking
import pytest
import torch
from bench_masking import Case
from timing import Effort

from dgdd_fast import ops
from dgdd_fast.ops import reference

SMALL = Case(4, 32, "both", "channels_last", batch=3)
QUICK = Effort(turns=5, turn_ms=0, row_ms=0)


def test_cases_are_the_stages_of_a_resnet() -> None:
    cases = list(bench_masking.cases(quick=False, on_cuda=True))
    assert len(set(cases)) == len(cases) == 2 * 4 * 2 * 2 * 2
    assert {case.shape for case in cases if case.image_size == 64} == {
        (256, 64, 64, 64),
        (256, 128, 32, 32),
        (256, 256, 16, 16),
        (256, 512, 8, 8),
    }
    assert next(case.num_masked for case in cases if case.stage == 4) == 168
    telling = cases[:24]
    assert len({case.shape for case in telling}) == 8
    assert {case.direction for case in telling} == {"forward", "both"}
    assert {case.dtype for case in telling} == {"float32", "bfloat16"}
    assert {case.dtype for case in bench_masking.cases(quick=False, on_cuda=False)} == {"float32"}


def test_necessary_bytes() -> None:
    assert SMALL.essential_bytes == 4 * 3 * 512 * 4 * 4 * 4
    assert dataclasses.replace(SMALL, direction="forward").essential_bytes == SMALL.essential_bytes / 2
    assert dataclasses.replace(SMALL, dtype="bfloat16").essential_bytes == SMALL.essential_bytes / 2


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_row_compares_equals(direction: str, device: torch.device) -> None:
    case = dataclasses.replace(SMALL, direction=direction)
    rows = list(bench_masking.measure(case, device, 10.0, compiled=False, effort=QUICK))
    assert [row.cache for row in rows] == (["warm", "flushed"] if device.type == "cuda" else ["warm"])
    row = rows[0]
    assert {"dgdd_fast", "eager"} <= row.times.keys()
    assert row.other_channels["dgdd_fast"] == row.other_channels["eager"] == 0
    assert row.speedup["eager"] == row.times["eager"].median / row.times["dgdd_fast"].median
    assert row.share_of_copy == pytest.approx(row.gigabytes_per_second / 10)


def test_the_plain_formulation_is_the_specification() -> None:
    arguments = (*SMALL.tensors(torch.device("cpu")), SMALL.num_masked)
    masked, mask = bench_masking.plain(*arguments)
    expected, expected_mask = reference.mask_channels(*arguments)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(masked, expected)


def test_a_peer_that_masks_other_channels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_channels(features, weight, domain_index, uniforms, num_masked):
        mask = torch.ones(features.shape[:2])
        mask[:, :num_masked] = 0
        return features * mask[:, :, None, None], mask

    monkeypatch.setattr(bench_masking, "plain", first_channels)
    (row,) = bench_masking.measure(SMALL, torch.device("cpu"), 10.0, compiled=False, effort=QUICK)
    assert "eager" not in row.times
    assert "of the channels otherwise" in row.missing["eager"]
    monkeypatch.setattr(ops, "mask_channels", first_channels)
    with pytest.raises(ArithmeticError, match="of the channels otherwise"):
        next(bench_masking.measure(SMALL, torch.device("cpu"), 10.0, compiled=False, effort=QUICK))


def test_the_table_on_paper_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [SMALL, dataclasses.replace(SMALL, direction="forward")]
    monkeypatch.setattr(bench_masking, "cases", lambda quick, on_cuda: iter(cases))
    monkeypatch.setattr(bench_masking, "copy_bandwidth", lambda device: 10.0)
    path = tmp_path / "table.json"
    words = ["--threads", str(torch.get_num_threads()), "--json", str(path), "--resume", "--quick"]

    def run(*more: str) -> tuple[list[dict[str, object]], str]:
        monkeypatch.setattr(sys, "argv", ["bench_masking.py", *words, *more])
        bench_masking.main()
        return json.loads(path.read_text())["rows"], capsys.readouterr().out

    rows, shown = run("--first", "1")
    assert [row["case"] for row in rows] == [dataclasses.asdict(SMALL)]
    assert "3x512x4x4 channels_last" in shown
    both, shown = run()
    assert both[0] == rows[0]
    assert [row["case"] for row in both] == [dataclasses.asdict(case) for case in cases]
    assert shown.count("3x512x4x4 channels_last") == 1
