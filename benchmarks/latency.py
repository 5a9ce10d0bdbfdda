"""From a slider to new pixels: what a person waits for, in a real browser, and where the time goes on the way.

    python -m benchmarks.latency

Serves the studio on the bundled model, opens the Edit tab and moves its strength slider by a step of 0.01 at a time.
Each move is timed inside the page, from the input event to the frame in which the new picture is there. What it passes
on the way is timed by the clock that page and server share.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
from playwright.sync_api import Error, Page, sync_playwright

from app.ui import build_app, launch_options
from tests.browser.conftest import OPTIONS, find_chromium
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.requests import AUTO, DEFAULT_MODEL, RUNTIME_HELP, RUNTIMES

MOVES = 50
WARM_UP = 5
PATIENCE = 10  # seconds until a move is said to have brought nothing
# Resolves with when it moved, asked, had another picture and showed it, in milliseconds of the clock; rejects with what
# the page says where there is none.
MOVE = f"""value => new Promise((resolve, reject) => {{
    const clock = () => performance.timeOrigin + performance.now();
    const slider = document.querySelector('#strength input[type=range]');
    const stage = document.querySelector('#result'), before = stage.querySelector('img').src;
    const send = window.fetch, passed = {{}};
    window.fetch = (where, ...how) => {{
        if (String(where?.url ?? where).includes('/queue/join')) passed.sent ??= clock();
        return send(where, ...how);
    }};
    const done = () => {{ window.fetch = send; observer.disconnect(); clearTimeout(late); }};
    const observer = new MutationObserver(() => {{
        const image = stage.querySelector('img');
        if (!image || image.src === before) return;
        passed.here = clock();
        done();
        image.decode().then(() => requestAnimationFrame(() => resolve({{...passed, shown: clock()}})));
    }});
    observer.observe(stage, {{subtree: true, childList: true, attributes: true, attributeFilter: ['src']}});
    const late = setTimeout(() => {{
        done();
        reject(new Error(document.querySelector('#edit-info').innerText || 'the page says nothing'));
    }}, {1000 * PATIENCE});
    passed.moved = clock();
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(slider, value);
    slider.dispatchEvent(new Event('input', {{bubbles: true}}));
}})"""
# What a move passes, in order, and what it did since it passed the one before.
STATIONS = {
    "moved": "",
    "sent": "the page, until it asks",
    "taken": "the way to the server, and Gradio's queue",
    "read": "Gradio reads the inputs",
    "asked": "the inputs become a request",
    "drawn": "the engine: text, network, decoder",
    "told": "pictures and notes as HTML",
    "answered": "Gradio's outputs",
    "here": "the way back, and into the page",
    "shown": "decoded, until the frame",
}


def watched(call: Callable[..., Any], before: str, after: str, passed: dict[str, float]) -> Callable[..., Any]:
    """A method that notes when it begins and ends."""

    def run(*given: Any, **named: Any) -> Any:
        passed[before] = time.time() * 1000
        try:
            return call(*given, **named)
        finally:
            passed[after] = time.time() * 1000

    return run


def watched_async(call: Callable[..., Any], before: str, after: str, passed: dict[str, float]) -> Callable[..., Any]:
    async def run(*given: Any, **named: Any) -> Any:
        passed[before] = time.time() * 1000
        try:
            return await call(*given, **named)
        finally:
            passed[after] = time.time() * 1000

    return run


def measure(page: Page, demo: gr.Blocks, engine: Engine) -> list[dict[str, float]]:
    """When each move passed what.

    Raises:
        SystemExit: a move brought no picture.
    """
    passed: dict[str, float] = {}
    demo.process_api = watched_async(demo.process_api, "taken", "answered", passed)
    demo.call_function = watched_async(demo.call_function, "read", "told", passed)
    engine.run = watched(engine.run, "asked", "drawn", passed)
    moves = []
    for number in range(WARM_UP + MOVES):
        passed.clear()
        try:
            passed |= page.evaluate(MOVE, str(round(0.3 + 0.01 * (number % 50), 2)))
        except Error as error:
            raise SystemExit(f"Move {number + 1} brought no picture in {PATIENCE} seconds: {error.message}") from None
        moves.append({name: passed[name] for name in STATIONS})
        page.wait_for_timeout(150)
    return moves[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--runtime", choices=(AUTO, *RUNTIMES), default=AUTO, help=RUNTIME_HELP)
    options = parser.parse_args()
    engine = Engine(runtime=options.runtime)
    engine.load(DEFAULT_MODEL)
    demo = build_app(engine, bundled())
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(playwright), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        page.wait_for_selector("#stage img", timeout=120_000)
        page.get_by_role("tab", name="Edit").click()
        page.wait_for_selector("#result img")
        engine.runtime.settle()
        moves = measure(page, demo, engine)
        browser.close()
    demo.close()
    waited = [move["shown"] - move["moved"] for move in moves]
    parts = {
        STATIONS[name]: statistics.median(move[name] - move[before] for move in moves)
        for before, name in pairwise(STATIONS)
    }
    whole, slowest = statistics.median(waited), statistics.quantiles(waited, n=20)[-1]
    print("| from slider to pixels | milliseconds |\n| --- | ---: |")
    print(f"| **median of {len(waited)} moves, in the browser** | **{whole:.1f}** |")
    print(f"| 19 of 20 moves, at most | {slowest:.1f} |")
    for what, milliseconds in parts.items():
        print(f"| of it {what} | {milliseconds:.1f} |")
    if options.json:
        figures = {"median_ms": whole, "19_of_20_ms": slowest, "parts_ms": parts, "browser_ms": waited}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
