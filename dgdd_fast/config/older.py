"""Settings as earlier versions wrote them, in today's names, so that their files are still read."""

from __future__ import annotations

from typing import Any

from .methods import METHODS


def renewed_distillation(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a distillation with the terms of its loss where they are now, in ``experts``.

    They were five switches: ``match`` and ``regularise`` in ``experts`` had a term at all, ``matching``,
    ``regularisation`` and ``consistency`` in ``masks`` masked it. Settings with such a switch had one draw of
    masks an image. Raises ValueError for a switch that is neither true nor false.
    """
    experts, masks = ({**part} if isinstance(part := values.get(name), dict) else {} for name in _SECTIONS)
    there = {
        name: _switch(section, name, part.pop(name))
        for section, part, names in (("experts", experts, _TERMS.values()), ("masks", masks, _MASKED))
        for name in names
        if name in part
    }
    if not there:
        return values
    objective = METHODS.get(str(values.get("objective", "")))
    masks_anything = objective is not None and objective.masks
    for term, switch in _TERMS.items():
        if there.get(switch) is False:
            experts[term] = "off"
        elif term in there:
            experts[term] = "masked" if there[term] else "plain"
        elif switch in there:
            experts[term] = "masked" if masks_anything else "plain"
    if "consistency" in there:
        experts["consistency"] = there["consistency"]
    elif not masks_anything:
        experts["consistency"] = False
    if any(name in there for name in _MASKED):
        masks.setdefault("draws", 1)
    return {**values, "experts": experts, "masks": masks or None}


def renewed_pretraining(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a pretraining with ``discriminators`` in place of ``refit_epochs``, those that they
    went on learning alone in the finished network. Raises ValueError where that is not a number of epochs.
    """
    if "refit_epochs" not in values:
        return values
    rest = dict(values)
    epochs = rest.pop("refit_epochs")
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise ValueError(f"refit_epochs must be int and not negative, got {epochs!r}")
    return {**rest, "discriminators": "refitted" if epochs else "joint"}


def renewed_experts(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of experts that there are, written whole: before either name their discriminators were
    those of the training."""
    return renewed_pretraining(values if "discriminators" in values else {"refit_epochs": 0, **values})


_SECTIONS = ("experts", "masks")
_TERMS = {"matching": "match", "regularisation": "regularise"}
_MASKED = (*_TERMS, "consistency")


def _switch(section: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{section}.{name} must be bool, got {value!r}")
    return value
