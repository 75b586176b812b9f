"""Numbers for classes and domains: whole ones only, and counted in one way only.

Data sets count their classes from 0 or from 1; SVHN counts 1..9 and calls the digit 0 class 10. Where more
than one reading fits, none is guessed.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from .errors import DataError

STORE = "store the labels as 0..K-1 (for SVHN: y[y == 10] = 0)"


def whole_number(value: Any, kind: str, item: str) -> int:
    """`value` as an int. Raises DataError naming `item` for all that is not one whole number: 1.0, True, NaN,
    a one-hot vector, None.
    """
    try:
        array_like = isinstance(value, (np.ndarray, np.generic, torch.Tensor))
        number: Any = value.item() if array_like else value
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except (TypeError, ValueError, RuntimeError) as error:
        several = np.ndim(value) > 0 if not isinstance(value, torch.Tensor) else value.dim() > 0
        text = " ".join(repr(value).split())
        raise DataError(
            f"{item} has the {kind} {text if len(text) < 80 else text[:77] + '...'}; expected whole numbers "
            "throughout, or names throughout" + (" (of a one-hot vector its argmax)" if several else "")
        ) from error


def counts_from_one(numbers: Collection[int], names: Sequence[str], item: str) -> bool:
    """Whether labels that are all of 1..K, for K classes called `names`, count from 1.

    They do unless the names are other numbers: with names 0..9 a label 3 may be the class called 3 or the
    third class. Raises DataError naming `item` for that.
    """
    count = len(names)
    if set(numbers) != set(range(1, count + 1)):
        return False
    if all(name.isdecimal() for name in names) and list(map(int, names)) != list(range(1, count + 1)):
        raise DataError(
            f"{item}: its labels are 1..{count} for classes called {names[0]}..{names[-1]}, so they may "
            f"count from 1, or {count} may stand for 0; {STORE}"
        )
    return True


def check_counting(domains: Sequence[str], classes: Sequence[Collection[str]], where: str) -> None:
    """`classes`: the names of the classes in each of `domains`. Raises DataError where they are the numbers
    0..K-1 in one domain and 1..K in another.
    """
    numbers = [
        {int(name) for name in names} if all(map(str.isdecimal, names)) else set() for names in classes
    ]
    from_zero = [set(range(len(found))) == found for found in numbers]
    for domain, found in zip(domains, numbers, strict=True):
        if found and found == set(range(1, len(found) + 1)):
            for other, others, zero in zip(domains, numbers, from_zero, strict=True):
                if zero and len(others) == len(found):
                    raise DataError(
                        f"{where}: the classes are 1..{len(found)} in the domain {domain!r} but "
                        f"0..{len(found) - 1} in {other!r}, so {domain!r} may count from 1, or its "
                        f"{len(found)} may stand for 0 (as in SVHN); give a class one number in all domains"
                    )
