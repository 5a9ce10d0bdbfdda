"""The studio on the tiny model, and a real browser to use it with."""

import json
import os
import shutil
from dataclasses import replace

import pytest

WORDS = {
    "names": ["grinning cat", "hatching chick", "palm tree", "pancakes", "panda", "polar bear", "red heart", "top hat"],
    "words": ["blue", "boat", "green", "hat"],
    "emoji": {"🐼": "panda"},
}
sync_api = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-background-networking"]
sync_api.expect.set_options(timeout=30_000)  # milliseconds; a busy machine takes its time


def find_chromium(playwright) -> str | None:
    """Path of the first Chromium there is: $CHROMIUM, the system's, playwright's own."""
    system = (shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *NAMES) if name)
    own = playwright.chromium.executable_path
    return next((path for path in system if path), own if os.path.exists(own) else None)


@pytest.fixture(scope="session")
def browser():
    with sync_api.sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            message = "NO CHROMIUM FOUND: install one, or name it in the variable CHROMIUM; the page is NOT tested."
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        chromium = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def studio(tiny_spec, tiny_control, tiny_lora, tmp_path_factory):
    """Address of the studio; its first model knows some words, and its second can't be loaded."""
    # Heavy, and a process that only hands tests to others reads this file too.
    from app.ui import build_app, launch_options
    from tests.tiny_translate import write_translator
    from yoso_core.checkpoints import Source
    from yoso_core.engine import Engine
    from yoso_core.models import ModelSpec
    from yoso_core.requests import DEFAULT_MODEL
    from yoso_core.words import FILE

    named = tmp_path_factory.mktemp("named") / "tiny"
    shutil.copytree(tiny_spec.source.place, named)
    (named / FILE).write_text(json.dumps(json.loads((named / FILE).read_text()) | WORDS))
    broken = ModelSpec("Broken model", Source("/nowhere"), "none", 64)
    models = {DEFAULT_MODEL: replace(tiny_spec, family="tiny", source=Source(str(named))), "broken": broken}
    engine = Engine(models, device="cpu", controls={"tiny": tiny_control}, translators={})
    folder, model = tmp_path_factory.mktemp("translators"), engine.load(DEFAULT_MODEL)
    both = replace(write_translator(folder / "both", model, ("a2b", "b2a"), seed=1), title="Both ways")
    engine.add_translator("lines", write_translator(folder / "lines", model, input="lines"))
    engine.add_translator("both", both)
    demo = build_app(engine, [tiny_lora])
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield address
    demo.close()


@pytest.fixture(scope="session")
def context(browser):
    """What all pages share: with scripts that are compiled already, one opens in six tenths of the time."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context, studio):
    """A page with its first picture, which remembers nothing; errors of its scripts fail the test."""
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(studio)
    page.wait_for_selector("#stage img")
    yield page
    blank = context.new_page()
    for each in context.pages:
        if each != blank:
            each.close()
    kept = {"origin": studio, "storageTypes": "local_storage,indexeddb"}
    context.new_cdp_session(blank).send("Storage.clearDataForOrigin", kept)
    blank.close()
    assert not errors
