"""Whether card, driver and build fit together, and what is said where they do not."""

import json
import sys

import card
import pytest
import torch

from dgdd_fast import _C

H100 = (9, 0)
BUILD = {"cuda_architectures": "80-real 90-real 120-virtual", "cuda_compiler": "NVIDIA 13.0.88"}


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("90-real", (9, 0), True),
        ("80-real", (8, 9), True),  # machine code runs on later members of its generation
        ("89-real", (8, 6), False),
        ("80-real", (9, 0), False),
        ("90-real", (8, 0), False),
        ("80-virtual", (9, 0), True),  # PTX on all later ones
        ("90-virtual", (8, 9), False),
        ("80", (12, 0), True),
        ("90a-real", (9, 0), True),
        ("100a-real", (10, 3), False),
        ("100f-real", (10, 3), True),
        ("100f-real", (12, 0), False),
        ("80-real 100-real 120-real", (12, 1), True),
        ("80-real 90-real 120-virtual", (10, 0), False),
        ("native", (9, 0), True),
        ("", (9, 0), False),
    ],
)
def test_what_code_runs_on(architectures: str, capability: tuple[int, int], runs: bool) -> None:
    assert card.covers(architectures, capability) == runs


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An H100 with a driver for CUDA 13.0, in a torch for CUDA, and a build that fits."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: H100)
    monkeypatch.setattr(card, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(_C, "build_info", lambda: BUILD)
    return monkeypatch


def test_what_fits_is_shown_side_by_side(
    h100: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert card.problem() is None
    h100.setattr(sys, "argv", ["card.py", "--fits"])
    card.main()
    shown = capsys.readouterr().out
    assert "NVIDIA H100, sm_90, driver for CUDA 13.0; build: 80-real 90-real 120-virtual" in shown
    h100.setattr(sys, "argv", ["card.py"])
    card.main()
    facts = json.loads(capsys.readouterr().out)
    assert (facts["device"], facts["architecture"], facts["driver_cuda"]) == ("NVIDIA H100", "sm_90", "13.0")


def refuse(message: str) -> None:
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        (torch.version, "cuda", None, "is built without CUDA: install"),
        (
            torch.cuda,
            "init",
            lambda: refuse("The NVIDIA driver on your system is too old (found version 12020)."),
            r"driver is for CUDA 13\.0.*too old \(found version 12020\)",
        ),
        (_C, "build_info", lambda: BUILD | {"cuda_architectures": ""}, "dgdd_fast was built without CUDA"),
        (
            _C,
            "build_info",
            lambda: BUILD | {"cuda_architectures": "80-real 100-real"},
            "NVIDIA H100, is sm_90, and dgdd_fast was built for 80-real 100-real only: build it here",
        ),
        (card, "driver_version", lambda: (12, 4), r"driver is for CUDA 12\.4.*built by NVIDIA 13\.0\.88"),
    ],
)
def test_what_keeps_them_apart_is_one_message(
    h100: pytest.MonkeyPatch, owner: object, name: str, value: object, message: str
) -> None:
    h100.setattr(owner, name, value)
    h100.setattr(sys, "argv", ["card.py", "--fits"])
    with pytest.raises(SystemExit, match=message) as stopped:
        card.main()
    assert "\n" not in str(stopped.value)


def test_a_package_that_cannot_be_imported_says_why(h100: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"{name} was built for another Python")

    h100.setattr(card, "import_module", missing)
    assert card.problem() == "dgdd_fast._C was built for another Python"
