"""Parts of a pass side by side: in order, one thread each, with the caller's state and errors."""

from __future__ import annotations

import math
import os
import threading
import time

import pytest
import torch
from torch import nn

from dgdd_fast.parallel import (
    all_threads,
    available_cores,
    each,
    granted_cores,
    one_by_one,
    side_by_side,
    slices,
    sum_gradients_,
    thread_count,
)

CPU = torch.device("cpu")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_as_many_parts_at_once_as_there_are_threads_and_results_in_order():
    met = threading.Barrier(3, timeout=60)  # breaks unless three parts are under way at once

    def meet(part: int) -> tuple[int, int]:
        met.wait()
        return part, torch.get_num_threads()

    with side_by_side(CPU):
        assert each(meet, range(6)) == [(part, 1) for part in range(6)]
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
    assert (torch.get_num_threads(), thread_count()) == (3, 3)


@pytest.mark.usefixtures("three_threads")
def test_elsewhere_parts_follow_each_other_in_the_callers_thread():
    def whose(part: int) -> threading.Thread:
        return threading.current_thread()

    here = [threading.current_thread()] * 4
    assert each(whose, range(4)) == here
    with side_by_side(torch.device("cuda")):
        assert each(whose, range(4)) == here
        assert torch.get_num_threads() == 3
    with side_by_side(CPU):
        assert each(whose, range(1)) == here[:1]


@pytest.mark.usefixtures("three_threads")
def test_blocks_and_parts_within_each_other_do_not_multiply():
    def inner(part: int) -> list[threading.Thread]:
        return each(lambda _: threading.current_thread(), range(2))

    with side_by_side(CPU):
        with side_by_side(CPU):
            assert thread_count() == 3
        assert torch.get_num_threads() == 1
        for own in each(inner, range(3)):
            assert own[0] is own[1]


@pytest.mark.usefixtures("three_threads")
def test_parts_record_gradients_where_the_caller_does():
    with side_by_side(CPU):
        assert each(lambda _: torch.is_grad_enabled(), range(3)) == [True] * 3
        with torch.no_grad():
            assert each(lambda _: torch.is_grad_enabled(), range(3)) == [False] * 3


@pytest.mark.usefixtures("three_threads")
def test_a_pass_that_cannot_be_taken_apart_has_all_threads():
    with side_by_side(CPU):
        with all_threads():
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("three_threads")
def test_an_error_of_a_part_is_the_callers_and_threads_are_put_back():
    def fail(part: int) -> None:
        raise ArithmeticError(f"part {part}")

    with pytest.raises(ArithmeticError, match="part 0"), side_by_side(CPU):
        each(fail, range(4))
    assert torch.get_num_threads() == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("part")]


@pytest.mark.usefixtures("three_threads")
def test_results_do_not_pile_up_before_a_caller_who_takes_his_time():
    begun = []
    with side_by_side(CPU):
        for taken, part in enumerate(one_by_one(lambda part: begun.append(part) or part, range(40))):
            assert part == taken
            time.sleep(0.002)  # in which three threads would compute all of them
            assert len(begun) - taken <= 6
    assert len(begun) == 40


@pytest.mark.usefixtures("three_threads")
def test_a_caller_who_leaves_early_leaves_nothing_to_be_computed():
    begun = []
    with side_by_side(CPU):
        found = one_by_one(lambda part: begun.append(part) or part, range(40))
        assert next(found) == 0
        found.close()
    assert len(begun) <= 6


@pytest.mark.parametrize(("count", "most"), [(1, 1), (7, 3), (100, 64), (64, 64), (65, 64), (5, 100)])
def test_slices_are_even_and_cover_everything_once(count, most):
    sizes = [part.stop - part.start for part in slices(count, most)]
    assert [row for part in slices(count, most) for row in range(part.start, part.stop)] == [*range(count)]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == math.ceil(count / most)


@pytest.mark.usefixtures("three_threads")
def test_gradients_of_parts_add_up_and_parameters_without_one_are_left_out():
    weight, bias, idle = (nn.Parameter(torch.tensor([value])) for value in (2.0, 1.0, 5.0))
    inputs = torch.arange(6.0)

    def losses(part):
        loss = ((weight * inputs[part] + (bias if part.start == 0 else 0)) ** 2).sum()
        return loss, loss.item()

    for parameter in (weight, bias, idle):
        parameter.grad = torch.ones(1)  # of the step before
    with side_by_side(CPU):
        found = sum_gradients_([weight, bias, idle], losses, slices(6, 2))
    assert found == [1 + 9, 16 + 36, 64 + 100]
    assert weight.grad == sum(2 * x * (2 * x + (x < 2)) for x in range(6))
    assert bias.grad == 2 * (1 + 3)
    assert idle.grad is None


def test_gradients_lie_in_memory_as_their_parameters_do():
    weight = nn.Parameter(torch.arange(24.0).view(1, 2, 3, 4))
    inputs = torch.rand(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)

    def loss_of(part):
        loss = (weight.contiguous(memory_format=torch.channels_last) * inputs).sum()
        return loss, None

    sum_gradients_([weight], loss_of, slices(2, 1))
    assert weight.grad.stride() == weight.stride()
    assert torch.equal(weight.grad, 2 * inputs)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ({"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_the_quota_of_a_control_group_counts(files, cores, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert granted_cores(tmp_path) == cores


def test_a_process_bound_to_one_core_has_one(monkeypatch):
    assert 1 <= available_cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert available_cores() == 1
