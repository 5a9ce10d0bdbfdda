"""The whole way of a model in a browser, from the shelf to a picture and off the disk again, at a stand-in hub."""

import os
import signal
from dataclasses import replace

import pytest

from app import ui
from app.ui import build_app, launch_options
from tests.browser.conftest import sync_api
from tests.stand_in import CHUNK, COMMIT
from tests.test_hub import children
from yoso_core.checkpoints import NEWEST, Source
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL
from yoso_core.shelf import Shelf

expect = sync_api.expect
IN_A_HURRY = """async () => {
    for (const name of ['Generate', 'Edit', 'Models']) {
        [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.trim() === name).click();
        await new Promise(requestAnimationFrame);
    }
}"""


@pytest.fixture
def page(browser, hub, tiny_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(ui, "Shelf", lambda engine, shared: Shelf(engine, tmp_path / "shelf", shared))
    remote = replace(tiny_spec, title="Far model", source=Source("some/model", COMMIT), licence="some-terms")
    remote = replace(remote, lora=tmp_path / "lora.safetensors", lora_source=Source("some/lora", NEWEST))
    engine = Engine({DEFAULT_MODEL: tiny_spec, "far": remote}, "cpu", controls={}, translators={}, waits=False)
    demo = build_app(engine, [], tmp_path / "loras", tmp_path / "runs", "local")
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(mode="local"))
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#stage img")
    yield page
    context.close()
    demo.close()
    assert not errors


def test_from_the_shelf_to_a_picture_and_off_the_disk_again(page, hub, tmp_path):
    # Who chooses what is not here is led to its card, which says what it takes; nothing has come for that.
    page.locator("#model input").click()
    page.get_by_role("option", name="Far model").click()
    card = page.get_by_label("Far model", exact=True)
    expect(card.locator(".fit")).to_contain_text("Fits this machine")
    expect(card.locator(".badge")).to_contain_text("MB")
    assert not any("/resolve/" in path for path in hub.asked)
    get = card.get_by_role("button", name="Get it")
    expect(get).to_be_disabled()  # until its licence is agreed to
    hub.pace = 700_000
    card.get_by_role("checkbox").check()
    get.click()
    expect(card.locator(".figures")).to_contain_text("a second")
    # What is killed says so, leaves everything else as it is, and is gone on with from where it was.
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    expect(card.locator(".why")).to_contain_text("try again later")
    expect(page.locator("#model input")).to_have_value("Tiny")
    page.evaluate(IN_A_HURRY)  # the figures of the tab that is open go on
    had, hub.pace = hub.sent, None
    card.get_by_role("button", name="Try again").click()
    expect(card.locator(".badge")).to_have_text("Here")
    total = sum(len(data) for each in hub.repositories.values() for data in each.files.values())
    assert had > 100_000 and hub.sent <= total + 3 * CHUNK  # once, and the ends that a killed connection had on its way
    assert (tmp_path / "lora.safetensors").read_bytes()[8:9] == b"{"
    # It draws.
    before = page.locator("#stage img").get_attribute("src")
    card.get_by_role("button", name="Draw with it").click()
    expect(page.locator("#stage img")).not_to_have_attribute("src", before)
    expect(page.locator("#model input")).to_have_value("Far model")
    # What is in use stays; what is not goes.
    page.get_by_role("tab", name="Models").click()
    card.get_by_role("button", name="Remove ...").click()
    card.get_by_role("button", name="Remove Frees").click()
    expect(page.locator("#shelf .said")).to_contain_text("This page draws with Far model")
    page.get_by_label("Tiny", exact=True).get_by_role("button", name="Draw with it").click()
    expect(page.locator("#model input")).to_have_value("Tiny")
    page.get_by_role("tab", name="Models").click()
    card.get_by_role("button", name="Remove ...").click()
    card.get_by_role("button", name="Remove Frees").click()
    expect(page.locator("#shelf .said")).to_contain_text("is removed")
    expect(card.locator(".fit")).to_contain_text("Fits this machine")
    assert not list((tmp_path / "cache").glob("models--*")) and not (tmp_path / "lora.safetensors").exists()
