"""The operators' checks cost nothing where they succeed: messages are made for those that fail."""

import re
from pathlib import Path

OPERATORS = Path(__file__).parents[2] / "csrc" / "ops.cpp"


def test_no_message_is_built_before_its_check_has_failed() -> None:
    """A call of a few microseconds was mostly text. Times are for bench/bench_overhead.py; this looks for the
    cause: text that is made outside a refusal, or before the way out of a check that has succeeded."""
    code = re.sub(r"//[^\n]*", "", OPERATORS.read_text())
    statements = code.split(";")
    makes_text = [i for i, statement in enumerate(statements) if re.search(r"\btext(_of_\w+)?\(", statement)]
    assert len(makes_text) > 10
    for i in makes_text:
        is_refusal = re.search(r"\b(refuse\(|throw\b)", statements[i])
        comes_after_success_has_left = re.search(r"\b(continue|return)\s*$", statements[i - 1])
        assert is_refusal or comes_after_success_has_left, statements[i].strip()
