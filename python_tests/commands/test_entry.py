"""The entry point of the command: quick help, Ctrl-C from the start, one message where torch is amiss."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
from processes import COMMAND, start, wait_until

HEAVY = ("torch", "numpy", "matplotlib", "sklearn", "scipy", "PIL", "pandas", "datasets", "dgdd_fast._C")
NO_DETECTION = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
BLOCKED = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--help"], {}, "dgdd distill --data pictures/"),
        (["distill", "--help"], {}, "dgdd distill --resume --out"),
        (["evaluate", "--help"], {}, "--recipe"),
        (["doctor", "--help"], {}, "check the operators"),
        # Without a word for it, Typer looks for the shell among the processes above this one.
        (["--show-completion", "bash"], {NO_DETECTION: "1"}, "complete -o default"),
        (["--version"], {}, f"dgdd-fast {version('dgdd-fast')}"),
        (["grid"], {}, "Missing argument 'STUDY'"),
        (
            [],
            {"_DGDD_COMPLETE": "complete_bash", "COMP_WORDS": "dgdd distill --me", "COMP_CWORD": "2"},
            "--method",
        ),
    ],
)
def test_help_completion_and_mistyped_options_import_nothing_heavy(arguments, environment, said):
    script = f"{BLOCKED}sys.argv[0] = 'dgdd'\n{COMMAND}"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert said in done.stdout
    assert done.returncode == (2 if arguments == ["grid"] else 0)


def test_as_a_module_it_says_the_same():
    told = [
        subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True)
        for arguments in (("--help",), ("grid",))
        for program in (("-c", COMMAND), ("-m", "dgdd_fast"))
    ]
    for one, other in (told[:2], told[2:]):
        assert (one.stdout, one.stderr, one.returncode) == (other.stdout, other.stderr, other.returncode)
    assert "Usage: dgdd " in told[1].stdout


@pytest.fixture
def slow_torch(tmp_path, monkeypatch):
    """A torch whose import says that it has begun, and takes its time."""
    begun = tmp_path / "begun"
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return begun


@pytest.mark.parametrize("program", [("-c", COMMAND), ("-m", "dgdd_fast")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_imported_ends_in_one_message(slow_torch, tmp_path, number, program):
    with start("doctor", folder=tmp_path, program=program) as process:
        wait_until(slow_torch.exists, process)
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "error: interrupted\n"
        assert process.returncode == 128 + number


# A signal while the module of this name is looked for.
SIGNALLED = """
import os, signal, sys

class Signalling:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Signalling())
sys.argv = ["dgdd", "data", "embedded-digits"]
from dgdd_command import main
main()
"""


# Torch imports numpy in C, and goes on without where that fails.
@pytest.mark.parametrize("module", ["torch", "numpy.linalg", "dgdd_fast.ops"])
def test_a_signal_while_anything_is_imported_is_not_swallowed(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED.format(module=module)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "error: interrupted\n")
    assert done.returncode == 128 + signal.SIGINT


def test_a_torch_that_is_too_old_is_said_in_one_message(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("__version__ = '2.9.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start("data", "embedded-digits", folder=tmp_path) as process:
        text = process.communicate(timeout=30)[0]
    assert text.startswith("error: dgdd_fast needs torch >= 2.11, and torch 2.9.0 is installed")
    assert len(text.splitlines()) == 1
    assert process.returncode == 1
