"""The page without a server, in a real browser: how large, how soon its first picture, how fast each after that.

    python -m benchmarks.web [--json FILE]

Exports the bundled model, serves it on loopback by a plain web server, opens it cold a few times, then draws prompts,
and drawings whose lines are followed.
"""

import argparse
import functools
import http.server
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import OPTIONS, find_chromium
from yoso_core.loading import load_model
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.web.export import export_page

COLD, PICTURES, WARM_UP = 3, 60, 5
# Milliseconds of each picture; another prompt and seed each time, so that nothing is remembered.
DRAW = """async ([names, drawn]) => {
    const {Artist} = await import('./artist.js'), artist = new Artist(), spent = [];
    const {side} = await (await fetch('model.json')).json();
    for (const [seed, prompt] of names.entries()) {
        const data = new Uint8ClampedArray(4 * side * side).fill(255);
        for (let i = 0; i < 400; i++) data[4 * (side * 20 + i + seed)] = 0;
        const picture = drawn ? {data, width: side, height: side} : null;
        const asked = {prompt, seed, picture, strength: .8, lines: drawn ? 'drawn' : 'none'};
        const started = performance.now(), made = await artist.draw(asked);
        spent.push([performance.now() - started, made.runtime]);
    }
    return spent;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain web server that says nothing."""

    def log_message(self, *arguments) -> None:
        pass


def first_picture(browser: Browser, address: str) -> float:
    """Seconds from an empty browser to the first picture, the page's own second loading included."""
    context = browser.new_context()
    page, started = context.new_page(), time.perf_counter()
    page.goto(address)
    page.wait_for_selector("#picture:not(.none)", timeout=120_000)
    seconds = time.perf_counter() - started
    context.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        model = load_model(MODELS[DEFAULT_MODEL], dtype=torch.float32)
        sizes = export_page(model, [(model.one_step, 1.0)], Path(folder) / "site")
        handler = functools.partial(Quiet, directory=Path(folder) / "site")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=find_chromium(playwright), args=OPTIONS)
        figures = {
            "megabytes": round(sum(sizes.values()) / 1e6, 1),
            "first_picture_seconds": [round(first_picture(browser, address), 2) for _ in range(COLD)],
        }
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#picture:not(.none)", timeout=120_000)
        for name, drawn in (("from_words_ms", False), ("from_a_drawing_ms", True)):
            spent = page.evaluate(DRAW, [model.spec.words.names[: WARM_UP + PICTURES], drawn])[WARM_UP:]
            times = sorted(milliseconds for milliseconds, _ in spent)
            figures[name] = {"median": round(statistics.median(times)), "95th": round(times[int(0.95 * len(times))])}
            figures["runtime"] = spent[0][1]
        browser.close()
        server.shutdown()
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
