"""A page in headless Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OUTER = """<iframe style="width:{width}px;height:2000px;border:0" srcdoc="{page}"></iframe>
<pre id="told"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const tell = (window, document) => ({script});
  document.getElementById("told").textContent =
    JSON.stringify(tell(frame.contentWindow, frame.contentDocument));
}};
</script>"""


def in_browser(page: str, width: int, dark: bool, script: str, folder: Path) -> Any:
    """What `script`, an expression of JavaScript about window and document, gives in a window of that width
    once the page is loaded. Skips the test where there is no browser."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    outer = folder / "outer.html"
    outer.write_text(OUTER.format(width=width, page=html.escape(page), script=script), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=5000"]
    shown = subprocess.run(
        [browser, *options, "--dump-dom", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    told = re.search(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL)
    assert told is not None, shown[-2000:]
    assert told[1], shown[-2000:]
    return json.loads(html.unescape(told[1]))
