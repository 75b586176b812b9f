"""Files damaged as disks, transfers and editors damage them, by a seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 2.0  # of computing, the most that a file of some kilobytes may take


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged copies of `content`, each other than it; half of the damage is near the beginning,
    where headers are."""
    random = np.random.default_rng(seed)
    while count:
        kind = _KINDS[int(random.integers(len(_KINDS)))]
        result = kind(bytearray(content), random)
        if result != content:
            count -= 1
            yield bytes(result)


def _place(content: bytearray, random: np.random.Generator) -> int:
    end = len(content) if random.random() < 0.5 else min(len(content), 512)
    return int(random.integers(end))


def _flip_bits(content: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(int(random.integers(1, 4))):
        content[_place(content, random)] ^= 1 << int(random.integers(8))
    return content


def _overwrite(content: bytearray, random: np.random.Generator) -> bytearray:
    start, length = _place(content, random), int(random.integers(1, 64))
    fill = [0, 255, int(random.integers(256))][int(random.integers(3))]
    content[start : start + length] = bytes([fill]) * len(content[start : start + length])
    return content


def _truncate(content: bytearray, random: np.random.Generator) -> bytearray:
    return content[: _place(content, random)]


def _insert(content: bytearray, random: np.random.Generator) -> bytearray:
    start = _place(content, random)
    content[start:start] = random.bytes(int(random.integers(1, 64)))
    return content


def _remove(content: bytearray, random: np.random.Generator) -> bytearray:
    start = _place(content, random)
    del content[start : start + int(random.integers(1, 64))]
    return content


def _swap_blocks(content: bytearray, random: np.random.Generator) -> bytearray:
    length = int(random.integers(1, 64))
    first, second = sorted(_place(content, random) for _ in range(2))
    if second < first + length or second + length > len(content):
        return content
    blocks = content[first : first + length], content[second : second + length]
    content[first : first + length], content[second : second + length] = blocks[1], blocks[0]
    return content


def _change_a_digit(content: bytearray, random: np.random.Generator) -> bytearray:
    """In a text, or in the header of a file: sizes, offsets, settings."""
    digits = [place for place, byte in enumerate(content[:2048]) if chr(byte).isdigit()]
    if digits:
        content[digits[int(random.integers(len(digits)))]] = ord(str(random.integers(10)))
    return content


_KINDS = (_flip_bits, _overwrite, _truncate, _insert, _remove, _swap_blocks, _change_a_digit)


def outcomes(
    path: Path,
    load: Callable[[], Any],
    whole: Callable[[Any], bool],
    count: int,
    errors: type[Exception] | tuple[type[Exception], ...] = ValueError,
    seed: int = 0,
) -> Counter[str]:
    """How often `load` refused the file at `path`, damaged, and how often it took it.

    Raises AssertionError where it took what is not `whole`, raised another error or one that does not name
    the file in a few words, or took long.
    """
    content = path.read_bytes()
    assert whole(load())
    counted: Counter[str] = Counter()
    for number, broken in enumerate(damaged(content, count, seed)):
        path.write_bytes(broken)
        began = time.process_time()
        what = f"{path.name}, damage {number} of seed {seed}"
        try:
            taken = load()
        except errors as error:
            counted["refused"] += 1
            message = str(error)
            assert path.name in message, f"{what}: no file is named: {message}"
            assert len(message) < 1500, f"{what}: {len(message)} characters: {message[:200]}..."
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:500]}") from error
        else:
            counted["taken"] += 1
            assert whole(taken), f"{what} was taken, and is not what was saved"
        seconds = time.process_time() - began
        assert seconds < SECONDS, f"{what} took {seconds:.1f} s"
    path.write_bytes(content)
    return counted
