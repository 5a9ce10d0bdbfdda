"""The process of the server is killed and another begins at the same address: the page is as it was."""

import random
import re
import socket
import time
from contextlib import closing
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from app.ui import build_app, launch_options
from tests.browser.test_edit import KEPT, RESULT, difference, expect_change, move_slider, stroke
from tests.processes import clean
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL

PROMPT = "#prompt textarea"
PIXEL = "() => document.querySelector('#canvas .%s').getContext('2d').getImageData(%d, 256, 1, 1).data[3]"
PAINTED, MASKED = PIXEL % ("ink", 256), PIXEL % ("mask", 50)


def serve(models, controls, loras, port):
    """What runs in the process of the server, until that is killed."""
    random.seed()  # Gradio tells servers apart by a random number, and forks begin with the same
    engine = Engine(models, device="cpu", controls=controls, translators={})
    build_app(engine, loras).launch(server_port=port, quiet=True, **launch_options())


class Server:
    """One after another at the same address; what their processes need is imported once for all.

    Args:
        asked: what `serve` needs beside a port.
    """

    def __init__(self, *asked):
        self.context, self.asked, self.process = clean("app.ui"), asked, None
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def begin(self):
        """The address, once somebody answers there."""
        self.process = self.context.Process(target=serve, args=(*self.asked, self.port), daemon=True)
        self.process.start()
        while self.process.is_alive():
            with closing(socket.socket()) as one:
                if not one.connect_ex(("127.0.0.1", self.port)):
                    return f"http://127.0.0.1:{self.port}"
            time.sleep(0.1)
        raise AssertionError("the server has ended")

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture
def server(tiny_spec, tiny_control, tiny_lora):
    models = {DEFAULT_MODEL: replace(tiny_spec, family="tiny")}
    models |= {"second": replace(models[DEFAULT_MODEL], title="Second")}
    server = Server(models, {"tiny": tiny_control}, [tiny_lora])
    yield server
    server.kill()


def set_everything(page):
    """Whatever is to be kept; returns the picture that comes of it."""
    page.click("#model input")
    page.get_by_role("option", name="Second").click()
    expect(page.locator("#model input")).to_have_value("Second")
    page.fill(PROMPT, "a green boat")
    page.locator("#style label", has_text="flat").click()
    page.locator("#steps label", has_text="2").click()
    page.click('.lora[data-id="waves"] .toggle')
    page.fill("#seed input", "5")
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_selector(RESULT)
    move_slider(page, "#strength", 0.2)
    stroke(page, (0.3, 0.5), (0.8, 0.5))
    page.click("[data-tool=mask]")
    stroke(page, (0.05, 0.5), (0.15, 0.5))
    made = expect_change(page, "")
    page.wait_for_function(KEPT, arg=RESULT)  # and the canvas is, which is faster
    return made


def expect_everything(page, before):
    expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#model input")).to_have_value("Second")
    expect(page.locator("#strength input[type=number]")).to_have_value("0.2")
    expect(page.locator("#seed input")).to_have_value("5")
    expect(page.locator("#style label.selected")).to_have_text("flat")
    expect(page.locator("#steps label.selected")).to_have_text("2")
    expect(page.locator('.lora[data-id="waves"]')).to_have_class(re.compile(r"\bon\b"))
    page.wait_for_selector(RESULT)
    page.wait_for_function(f"({PAINTED})() && ({MASKED})()")
    assert difference(expect_change(page, ""), before) < 1  # what is painted softly comes back by a level or so


def test_everything_is_as_it_was_in_a_second_tab_and_after_the_server_was_killed(browser, server):
    context, address = browser.new_context(viewport={"width": 1440, "height": 900}), server.begin()
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#stage img")
    before = set_everything(page)
    second = context.new_page()
    second.goto(address)
    expect(second.locator(PROMPT)).to_have_value("a green boat")
    expect_everything(second, before)
    second.fill(PROMPT, "a yellow cup")  # what the first tab has is its own

    page.evaluate("() => { window.isBefore = true; }")
    server.kill()
    page.fill(PROMPT, "a green bus")  # what is set while nobody answers is kept, too
    server.begin()
    page.wait_for_function("() => !window.isBefore")  # the page loads itself again
    expect(page.locator(PROMPT)).to_have_value("a green bus")
    page.fill(PROMPT, "a green boat")
    expect_everything(page, before)

    page.click("#history [data-do=afresh]")
    expect(page.locator(PROMPT)).to_have_value("a red heart")
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    page.locator("#said button", has_text="Undo").click()
    expect(page.locator(PROMPT)).to_have_value("a green boat")
    page.wait_for_function(f"({PAINTED})() && ({MASKED})()")

    # Pictures of both tabs are all kept; the second met the new server when it asked for something.
    for each, words in ((page, "one"), (second, "two")):
        each.get_by_role("tab", name="Generate").click()
        each.fill(PROMPT, words)
        expect(each.locator("#history .strip").get_by_alt_text(re.compile(f"^{words}, flat"))).to_have_count(1)
    for words in ("one", "two"):
        expect(page.locator("#history .strip").get_by_alt_text(re.compile(f"^{words}, flat"))).to_have_count(1)
    context.close()
