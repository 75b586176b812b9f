"""What reaches the screen: names as they are, whatever characters they are made of."""

import contextlib
import dataclasses
import io

import pytest
from command_line import dgdd, failure
from data_trees import write_tree
from rich.console import Console
from run_commands import ONE_STEP
from small_runs import toy_set
from toy_data import toy_domains

from dgdd_fast import steps
from dgdd_fast.commands import terminal
from dgdd_fast.synthetic.export import export_numpy

ODD = "photo[hd] [b] :dog:"


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    domains, classes = (ODD, "sketch", "clip[]"), ("[red]cat", "dog")
    data = write_tree(tmp_path / "data[1]", [f"{domain}/{label}" for domain in domains for label in classes])
    text = dgdd("data", data).output
    for name in (*domains, *classes, "data[1]"):
        assert name in text
    out = tmp_path / "out[v2] :cat:"
    text = dgdd("distill", "--data", data, "--target", "sketch", *ONE_STEP, "--out", out).output
    assert "from 16 images of clip[], photo[hd] [b] :dog:; held out: sketch" in text
    assert f"written: {out / 'distilled.safetensors'}, {out / 'contact_sheet.png'}" in text
    assert f"next:    dgdd evaluate {out}" in text
    text = dgdd("export", out, "--out", tmp_path / "x[1]").output
    assert f"below {tmp_path / 'x[1]' / 'images'}" in text
    code, text = failure(
        "distill", "--data", data, "--target", "photo[hd]", *ONE_STEP, "--out", tmp_path / "o"
    )
    assert (code, "no domain 'photo[hd]'" in text) == (2, True)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_shows_names_as_they_are(monkeypatch, is_terminal):
    screen = io.StringIO()
    monkeypatch.setattr(
        terminal,
        "console",
        Console(file=screen, force_terminal=is_terminal, width=200, markup=False, emoji=False),
    )
    with terminal.ProgressDisplay() as display:
        display.update(ODD, 3, 3, "loss [1] {x}")
    assert ODD in screen.getvalue()
    assert "loss [1] {x}" in screen.getvalue()


def test_a_terminal_obeys_no_character_of_a_name(tmp_path):
    """As of a set or a study that somebody else made."""
    evil, obeyed = "\x1b]0;title\x07cat\r\u202e", {"\x1b", "\x07", "\r", "\u202e"}
    data = toy_domains()
    distilled = dataclasses.replace(toy_set(data), class_names=(evil, *data.class_names[1:]))
    export_numpy(distilled, tmp_path / "set.npz")
    text = dgdd("import", tmp_path / "set.npz", "--out", tmp_path / "run").output
    assert "label 0 is \\x1b]0;title\\x07cat\\r\\u202e, label 2" in text
    assert not obeyed & set(text)
    screen = io.StringIO()
    shown = type(terminal.console)(file=screen, width=200)
    rows = terminal.table(evil, title=evil)
    rows.add_row(evil)
    for text in (evil, rows, terminal.labelled("note", "yellow", evil)):
        shown.print(text)
    assert screen.getvalue().count("\\x1b]0;title\\x07cat") == 5
    assert not obeyed & set(screen.getvalue())


def test_labels_are_coloured_and_their_text_is_not_markup():
    assert terminal.labelled("note", "yellow", ODD).plain == f"note: {ODD}"


def test_a_log_has_a_line_now_and_then_with_the_time_left_and_one_at_the_end(monkeypatch):
    screen, clock = io.StringIO(), iter(range(0, 1000, 4))
    monkeypatch.setattr(terminal, "console", Console(file=screen, width=200))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.progress("distilling", 8) as show:
        for done in range(1, 9):
            show(done, f"loss {done}")
    assert screen.getvalue().splitlines() == [
        "distilling 4/8  loss 4  16 s left",
        "distilling 7/8  loss 7  4 s left",
        "distilling 8/8  loss 8",
    ]


def test_another_loop_of_a_name_has_a_pace_of_its_own(monkeypatch):
    screen, clock = io.StringIO(), iter((0, 100, 200, 220))
    monkeypatch.setattr(terminal, "console", Console(file=screen, width=200))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.ProgressDisplay() as display:
        for done, total in ((1, 9), (2, 9), (1, 3), (2, 3)):
            display.update("job", done, total)
    assert screen.getvalue().splitlines() == ["job 2/9  11 min 40 s left", "job 1/3", "job 2/3  20 s left"]


def steps_of(monkeypatch, pty, seconds, *, inner=None):
    """What a screen shows of a step of four parts that take `seconds` each."""
    screen, clock = io.StringIO(), iter(range(0, 10_000, seconds))
    console = Console(file=screen, force_terminal=pty, width=200)
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.steps_shown(), inner() if inner else contextlib.nullcontext():
        passed = list(steps.counted("measuring", "abcd"))
    assert passed == ["a", "b", "c", "d"]
    return screen.getvalue()


def test_long_steps_are_told_in_a_log_and_short_ones_are_not(monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 10.0)
    lines = steps_of(monkeypatch, False, 6).splitlines()
    assert lines[0].startswith("measuring 2/4")
    assert lines[0].endswith("left")
    assert lines[-1] == "measuring 4/4"
    assert steps_of(monkeypatch, False, 1) == ""


def test_long_steps_have_a_bar_on_a_terminal_inside_of_another_display_too(monkeypatch):
    assert "measuring" in steps_of(monkeypatch, True, 6)
    assert "measuring" in steps_of(monkeypatch, True, 6, inner=lambda: terminal.progress("outer", 9))


def test_a_display_after_a_step_that_was_broken_off_has_the_terminal_to_itself(monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BEFORE_BARS", 0.0)
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=True, width=200))
    with terminal.steps_shown():
        broken_off = steps.counted("measuring", "ab")
        next(broken_off)
        next(broken_off)
        with terminal.progress("distilling", 2) as show:
            show(2)
    assert "distilling" in screen.getvalue()
