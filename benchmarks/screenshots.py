"""Every screenshot of README and docs, from the page as it is: the bundled models, a real browser, nothing touched up.

    python -m benchmarks.screenshots [--out docs]

It is `make screenshots`. Each picture is of the page at 1440 x 900 pixels, in light; the phone's at 390 x 844, in dark.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from app.ui import build_app, launch_options
from tests.browser.conftest import OPTIONS, find_chromium
from yoso_core.engine import Engine
from yoso_core.lora.library import bundled
from yoso_core.requests import DEFAULT_MODEL, GenerateRequest

PROMPTS = ("a red heart", "panda", "pizza", "rocket", "grinning cat", "palm tree", "crown")  # of the strip
STILL = 1600  # milliseconds after which a picture is kept and nothing moves
# Strokes of a cat's face, in parts of the canvas: colour (None is black), width of the brush, points.
CAT = [
    (None, 14, [(0.25, 0.35), (0.22, 0.12), (0.42, 0.26), (0.58, 0.26), (0.78, 0.12), (0.75, 0.35)]),
    (None, 14, [(0.25, 0.35), (0.2, 0.6), (0.35, 0.8), (0.5, 0.84), (0.65, 0.8), (0.8, 0.6), (0.75, 0.35)]),
    (None, 30, [(0.38, 0.48), (0.38, 0.5)]),
    (None, 30, [(0.62, 0.48), (0.62, 0.5)]),
    (None, 12, [(0.42, 0.66), (0.5, 0.7), (0.58, 0.66)]),
]
BOAT = [
    ("#e0312e", 60, [(0.25, 0.68), (0.75, 0.68)]),
    ("#1c1917", 14, [(0.5, 0.62), (0.5, 0.2)]),
    ("#3b82f6", 50, [(0.54, 0.5), (0.66, 0.5), (0.56, 0.34)]),
    ("#3b82f6", 30, [(0.05, 0.86), (0.95, 0.86)]),
]


def draw(page: Page, canvas: str, strokes: list[tuple[str | None, int, list[tuple[float, float]]]]) -> None:
    """Strokes on a canvas, as a hand makes them."""
    box = page.locator(f"{canvas} canvas.mask").bounding_box()
    for colour, width, points in strokes:
        page.locator(f"{canvas} .brush input").fill(str(width))
        if colour:
            page.click(f"{canvas} [data-colour='{colour}']")
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=4)
        page.mouse.up()
    page.wait_for_timeout(STILL)


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(600)


def shots(page: Page, out: Path, pictures: list[Path]) -> None:
    """The pictures of all tabs.

    Args:
        page: with the studio open.
        out: folder to write to.
        pictures: to drop on the Train tab.
    """
    for prompt in PROMPTS[::-1]:
        page.fill("#prompt textarea", prompt)
        page.wait_for_timeout(STILL)
    page.screenshot(path=out / "studio.png")
    open_tab(page, "Edit")
    page.fill("#prompt textarea", "sailboat")
    draw(page, "#canvas", BOAT)
    page.screenshot(path=out / "edit.png")
    open_tab(page, "Translate")
    page.fill("#prompt textarea", "cat face")
    draw(page, "#translate-canvas", CAT)
    page.screenshot(path=out / "translate.png")
    open_tab(page, "Compare")
    page.click("#fill")
    page.wait_for_selector("#grid table:not(:has(.waiting))", timeout=120_000)
    page.wait_for_timeout(STILL)
    page.locator("#grid table").evaluate("table => table.scrollIntoView({block: 'end'})")
    page.screenshot(path=out / "compare.png")
    open_tab(page, "Train")
    page.set_input_files("#train-files input[type=file]", pictures)
    page.wait_for_selector(".picture-table .picture", timeout=60_000)
    page.wait_for_timeout(STILL)
    page.screenshot(path=out / "train.png")
    open_tab(page, "Models")
    page.wait_for_timeout(STILL)
    page.screenshot(path=out / "models.png")


def phone(page: Page, out: Path) -> None:
    """The Edit tab on a phone, scrolled to where its answer would be out of sight."""
    page.fill("#prompt textarea", "sailboat")
    open_tab(page, "Edit")
    page.locator("#canvas .canvas-stack").scroll_into_view_if_needed()
    draw(page, "#canvas", BOAT)
    page.screenshot(path=out / "phone.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder to write to")
    options = parser.parse_args()
    engine = Engine(device="cpu")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pictures = []
        for seed in range(24):  # what the model itself draws, so that nothing has to be fetched
            pictures.append(Path(folder) / f"{PROMPTS[seed % len(PROMPTS)]} {seed}.png")
            prompt = f"{PROMPTS[seed % len(PROMPTS)]}, flat"
            engine.run(GenerateRequest(prompt, seed=seed, model=DEFAULT_MODEL)).pictures[0].save(pictures[-1])
        demo = build_app(engine, bundled(), Path(folder) / "loras", Path(folder) / "runs", "local")
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
        browser = playwright.chromium.launch(executable_path=find_chromium(playwright), args=OPTIONS)
        views: list[tuple[dict[str, Any], str]] = [
            ({"viewport": {"width": 1440, "height": 900}}, "light"),
            ({"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}, "dark"),
        ]
        for view, theme in views:
            page = browser.new_context(**view).new_page()
            page.set_default_timeout(60_000)
            page.goto(f"{address}?__theme={theme}")
            page.wait_for_selector("#stage img")
            if theme == "light":
                shots(page, options.out, pictures)
            else:
                phone(page, options.out)
        browser.close()
        demo.close()


if __name__ == "__main__":
    main()
