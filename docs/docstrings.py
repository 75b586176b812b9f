"""An extension of griffe: where a docstring says one thing of several attributes ("mean, std: ..."), their
names stay together and have their own types. Griffe takes what stands behind the first blank for a type."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+)(?=: )", re.MULTILINE)
_HARD_BLANK = "\u00a0"  # one that griffe does not part at


class SeveralNames(griffe.Extension):
    """Writes such lines as griffe reads them: the names, then the types that they have."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """griffe: a class and its members have been read."""

        def typed(line: re.Match[str]) -> str:
            names = line["names"].split(", ")
            if not all(name in cls.members for name in names):
                return line[0]
            types = dict.fromkeys(str(cls.members[name].annotation) for name in names)
            return f"{line['indent']}{f',{_HARD_BLANK}'.join(names)} ({', '.join(types)})"

        if cls.docstring is not None:
            cls.docstring.value = _SEVERAL.sub(typed, cls.docstring.value)
