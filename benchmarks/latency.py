"""From a slider to new pixels: what a person waits for, in a real browser, beside the engine's own share of it.

    python -m benchmarks.latency

Serves the studio on the bundled model, opens the Edit tab and moves its strength slider by a step of 0.01 at a time.
Each move is timed inside the page, from the input event to the frame in which the new picture is there.
"""

import argparse
import json
import statistics
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from app.ui import build_app, launch_options
from tests.browser.conftest import OPTIONS, find_chromium
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.requests import AUTO, DEFAULT_MODEL, RUNTIME_HELP, RUNTIMES

MOVES = 50
WARM_UP = 5
# Resolves with the milliseconds from the input event to the frame that shows another picture.
MOVE = """value => new Promise(resolve => {
    const slider = document.querySelector('#strength input[type=range]');
    const stage = document.querySelector('#result'), before = stage.querySelector('img').src;
    const started = performance.now();
    new MutationObserver((_, observer) => {
        const image = stage.querySelector('img');
        if (!image || image.src === before) return;
        observer.disconnect();
        image.decode().then(() => requestAnimationFrame(() => resolve(performance.now() - started)));
    }).observe(stage, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(slider, value);
    slider.dispatchEvent(new Event('input', {bubbles: true}));
})"""


def measure(page: Page, engine: Engine) -> tuple[list[float], list[float]]:
    """Milliseconds of every move, in the page and inside the engine."""
    inside, run = [], engine.run

    def timed_run(request):
        result = run(request)
        inside.append(result.seconds["total"] * 1000)
        return result

    waited = []
    for number in range(WARM_UP + MOVES):
        engine.run = timed_run if number >= WARM_UP else run
        milliseconds = page.evaluate(MOVE, str(round(0.3 + 0.01 * (number % 50), 2)))
        page.wait_for_timeout(150)
        if number >= WARM_UP:
            waited.append(milliseconds)
    return waited, inside


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
        waited, inside = measure(page, engine)
        browser.close()
    demo.close()
    whole, part = statistics.median(waited), statistics.median(inside)
    slowest = statistics.quantiles(waited, n=20)[-1]
    print("| from slider to pixels | milliseconds |\n| --- | ---: |")
    print(f"| median of {len(waited)} moves, in the browser | {whole:.0f} |")
    print(f"| 19 of 20 moves | {slowest:.0f} |")
    print(f"| of it the engine (text, network, decoder) | {part:.0f} |")
    print(f"\nthe engine's share: {part / whole:.2f}")
    if options.json:
        figures = {"browser_ms": waited, "engine_ms": inside, "median_ms": whole, "share": part / whole}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
