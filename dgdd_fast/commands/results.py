"""The file that `dgdd evaluate` writes: what was tested and how it went, written anew after every network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_writable, one_at_a_time, read_file, write_atomically
from ..json_text import MOST_BYTES, parse_json

if TYPE_CHECKING:
    from ..analysis.scores import Scores
    from ..config import EvaluateSettings
    from ..data import DomainDataset
    from ..evaluation import Evaluation
    from ..synthetic.distilled_set import DistilledSet

# What must be the same for results to stand in one file.
_SUBJECT = {
    "set_sha256": "another set",
    "tests": "other test images",
    "sources": "other real images to train on",
}


class ResultsFile:
    """Results by name, in a JSON file that holds at any time all that was finished.

    Raises ValueError for a file that holds anything else than results of the same set on the same images,
    beside those of the same real ones, unless `overwrite`; OSError where no file can be written at `path`.
    """

    def __init__(
        self,
        path: Path,
        set_path: Path,
        distilled: DistilledSet,
        tests: Mapping[str, DomainDataset],
        sources: DomainDataset,
        overwrite: bool,
    ) -> None:
        self.path = path
        self._fault: str | None = None
        self._joins = not overwrite
        provenance = {name: value for name, value in distilled.provenance.items() if name != "learnt_from"}
        self._report: dict[str, Any] = {
            "set": str(set_path),
            "set_sha256": hashlib.sha256(set_path.read_bytes()).hexdigest(),
            "ipc": distilled.ipc,
            "images_beyond_10_deviations": distilled.strays,
            "provenance": provenance,
            "tests": {
                name: {"images": len(test), "fingerprint": test.fingerprint()} for name, test in tests.items()
            },
            "sources": sources.fingerprint(),
            "results": {},
            "scores": {},
        }
        with one_at_a_time(path):
            check_writable(path)
            if path.exists() and not overwrite:
                self._join()

    def _join(self) -> None:
        """Take what stands in the file already."""
        try:
            # Earlier versions did not say what Random and the whole data were made of.
            earlier = {"sources": self._report["sources"], **parse_json(read_file(self.path, MOST_BYTES))}
            results, scores = earlier["results"], earlier.get("scores", {})
            other = next((what for key, what in _SUBJECT.items() if earlier[key] != self._report[key]), None)
        except (AttributeError, KeyError, TypeError, ValueError):
            results, scores, other = None, None, "something else, or results of a version before"
        if other is not None or not isinstance(results, dict) or not isinstance(scores, dict):
            raise self._in_the_way(f"results of {other}" if other in _SUBJECT.values() else str(other))
        self._report["results"] |= results
        self._report["scores"] |= scores

    def done(self, name: str, settings: EvaluateSettings) -> Evaluation | None:
        """The runs of a result that are there. Raises ValueError where they are of other settings."""
        from ..evaluation import Evaluation, other_setting

        values = self._report["results"].get(name)
        if values is None:
            return None
        try:
            found = Evaluation.from_dict(values)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._in_the_way(f"{name} damaged") from None
        if different := other_setting(found.config, settings):
            there, here = getattr(found.config, different), getattr(settings, different)
            raise self._in_the_way(f"{name} with {different} = {there}, not {here}")
        return found

    def keep(self, name: str, evaluation: Evaluation) -> None:
        """Write the file; where that fails, `check` tells later: the result is to be shown all the same."""
        self._write("results", name, evaluation.to_dict())

    def keep_scores(self, name: str, scores: Mapping[str, Scores]) -> None:
        """As `keep`, the scores of a network's trainings by test set."""
        self._write("scores", name, {test: each.to_dict() for test, each in scores.items()})

    def _write(self, part: str, name: str, values: dict[str, Any]) -> None:
        try:
            with one_at_a_time(self.path):
                if self._joins and self.path.exists():  # what another process may have written there
                    self._join()
                there = self._report[part].get(name)
                if part == "results" and there is not None and there != values:
                    values = self._further(name, there, values)
                self._report[part][name] = values
                write_atomically(self.path, (json.dumps(self._report, indent=2) + "\n").encode())
            self._fault, self._joins = None, True
        except OSError as error:
            self._report[part][name] = values  # it may be possible with the next one
            self._fault = error.strerror or str(error)
        except ValueError as error:  # another process put something else there
            self._fault = str(error)

    def _further(self, name: str, there: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
        """That of two results by one name which has more networks: another process may be ahead. Raises
        ValueError where they are of different settings."""
        from ..evaluation import Evaluation

        ours = Evaluation.from_dict(here)
        found = self.done(name, ours.config)
        return here if found is None or found.runs <= ours.runs else there

    def check(self) -> None:
        """Raises OSError where not all that was kept is in the file."""
        if self._fault is not None:
            raise OSError(f"{self.path} could not be written ({self._fault}): note what is above")

    def _in_the_way(self, what: str) -> ValueError:
        return ValueError(f"{self.path} holds {what}: write to another file (--out), or give --overwrite")
