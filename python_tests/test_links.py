"""Links that lead away from the project: `mkdocs --strict` follows those within."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "bench", "docs", "docs/api", ".github")
PAGES = [page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")] + [ROOT / "CITATION.cff"]
GONE = (404, 410)  # others say that a program may not ask, or not now


def links() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return sorted({link.rstrip(".,;:") for link in re.findall(r"https?://[^\s)>\"'`\]]+", text)})


def test_links_are_found_and_are_whole() -> None:
    found = links()
    assert len(found) > 5
    assert not [link for link in found if re.search(r"localhost|example\.|\{|TODO", link)]


@pytest.mark.slow
def test_what_they_lead_to_is_there() -> None:
    gone, unreached = [], []
    for link in links():
        request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            if error.code in GONE:
                gone.append(link)
        except OSError:
            unreached.append(link)
    assert not gone
    if unreached:
        pytest.skip(f"{len(unreached)} of {len(links())} cannot be reached from here")
