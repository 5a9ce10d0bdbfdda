"""Two visitors and one queue: who waits is told so and has a turn between pictures, and nobody takes all places."""

import re
import threading
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import expect

from app.train_mode import MODES
from app.ui import build_app, launch_options
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL

PROMPT, PICTURE = "#prompt textarea", "#stage img"
BODY = {"data": ["a", "", 0, 1, 1, 1, DEFAULT_MODEL, None, "", 1, None, "", 1, "lcm"]}  # of /generate


class Gate:
    """What requests have to pass one by one, once it is shut."""

    def __init__(self, answer):
        self.answer, self.shut = answer, False
        self.passes, self.held = threading.Semaphore(0), threading.Event()

    def __call__(self, asked):
        if self.shut:
            self.held.set()
            self.passes.acquire(timeout=60)
        self.answer(asked)

    def let(self, count):
        self.passes.release(count)


@pytest.fixture
def gate(tiny_spec):
    engine = Engine({DEFAULT_MODEL: replace(tiny_spec, family="tiny")}, device="cpu")
    engine._answer = gate = Gate(engine._answer)
    demo = build_app(engine, mode="private")
    _, gate.address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(behind_proxy=True))
    yield gate
    gate.shut = False
    gate.let(100)
    demo.close()


def visit(browser, gate, address):
    """A page of somebody at an address of their own, with its first picture."""
    page = browser.new_context(extra_http_headers={"X-Forwarded-For": address}).new_page()
    page.set_default_timeout(30_000)
    page.goto(gate.address)
    page.wait_for_selector(PICTURE)
    page.wait_for_selector("#style-sheet style", state="attached")  # so that nothing is drawn unasked later
    return page


def expect_picture(page, words):
    expect(page.locator(PICTURE)).to_have_attribute("alt", re.compile(f"^{words}"))


def test_pictures_of_two_visitors_take_turns_and_nobody_takes_all_places(browser, gate):
    one, two = visit(browser, gate, "10.0.0.1"), visit(browser, gate, "10.0.0.2")
    one.get_by_role("tab", name="Compare").click()
    gate.shut = True
    one.click("#fill")
    assert gate.held.wait(30)  # its first picture is being drawn
    two.fill(PROMPT, "a boat")
    expect(two.get_by_text("picture comes first").first).to_be_visible()
    gate.let(2)
    expect_picture(two, "a boat")
    expect(one.locator("#grid img").first).to_be_visible()
    assert one.locator("#grid .waiting").count() > 5

    # Whoever sends more than may wait is told so, and the other one is drawn for as before.
    with httpx.Client(headers={"X-Forwarded-For": "10.0.0.1"}, timeout=30) as http:
        answers = [http.post(f"{gate.address}gradio_api/call/generate", json=BODY) for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) >= 20 - MODES["private"].queue_share - 4
    assert all("Queue is full for you" in answer.text for answer in refused)
    two.fill(PROMPT, "a hat")
    for _ in range(8):  # one by one, because nobody knows when the page has asked
        gate.let(1)
        two.wait_for_timeout(500)
        if two.locator(PICTURE).get_attribute("alt").startswith("a hat"):
            break
    expect_picture(two, "a hat")
    assert one.locator("#grid .waiting").count() > 0
    gate.shut = False
    gate.let(100)
    expect(one.locator("#grid .waiting")).to_have_count(0)
    for page in (one, two):
        page.context.close()
