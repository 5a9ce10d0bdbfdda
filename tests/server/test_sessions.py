"""What is remembered of pages, counted."""

from dataclasses import dataclass

import gradio as gr
import pytest
from PIL import Image

from app.server.sessions import Sessions, weight
from app.server.visitors import VISITOR, visitor_of


@dataclass(frozen=True)
class Request:
    prompt: str
    picture: Image.Image


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("x" * 1000, 1000, 1100),
        (b"x" * 1000, 1000, 1100),
        (None, 1, 100),
        (Image.new("RGB", (100, 100)), 30_000, 31_000),
        (Request("a cat", Image.new("L", (100, 100))), 10_000, 11_000),
        ([{"a": "x" * 500}] * 4, 2000, 3000),
        (gr.Textbox("x" * 1000, render=False), 1000, 3000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_are_about_right(value, least, most):
    assert least <= weight(value) <= most


@pytest.fixture
def store():
    with gr.Blocks(analytics_enabled=False) as blocks:
        text, kept = gr.Textbox(), gr.State("", delete_callback=lambda value: forgotten.append(value))
    forgotten: list = []
    store = Sessions(capacity=4, in_all=10_000)
    blocks.state_session_capacity = 10
    store.set_blocks(blocks)
    store.text, store.kept, store.forgotten = text, kept, forgotten
    return store


def visit(store: Sessions, visitor: str, page: str):
    token = VISITOR.set(visitor)
    try:
        return store[page]
    finally:
        VISITOR.reset(token)


def test_last_inputs_are_not_kept(store):
    session = visit(store, "me", "page")
    session[store.text._id] = store.text
    session._update_value_in_config(store.text._id, "x" * 10_000_000)
    assert session.weight < 1000 and not list(session.components)


def test_a_page_may_keep_so_much_and_no_more(store):
    session = visit(store, "me", "page")
    session.each = 5000
    session[store.kept._id] = "x" * 4000
    with pytest.raises(gr.Error, match="holds too much"):
        session[store.kept._id] = "y" * 6000
    assert session[store.kept._id] == "x" * 4000
    session[store.kept._id] = "z" * 4500  # in place of the other
    assert session.weight < 5000


def test_whoever_has_most_pages_loses_their_oldest(store):
    visit(store, "me", "mine")
    for number in range(10):
        visit(store, "they", f"theirs-{number}")[store.kept._id] = number
    assert set(store.session_data) == {"mine", "theirs-7", "theirs-8", "theirs-9"}
    assert store.forgotten == list(range(7))  # what hangs on them is let go of


def test_whoever_keeps_most_loses_their_oldest(store):
    visit(store, "me", "mine")[store.kept._id] = "x" * 3000
    for number in range(3):
        visit(store, "they", f"theirs-{number}")[store.kept._id] = "y" * 4000
        visit(store, "me", "mine")
    assert set(store.session_data) == {"mine", "theirs-2"}
    assert store["mine"][store.kept._id] == "x" * 3000


@pytest.mark.parametrize(
    ("client", "forwarded", "visitor"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, 2.2.2.2", "2.2.2.2"),
        ("::ffff:10.0.0.1", None, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::"),
        ("testclient", None, "testclient"),
    ],
)
def test_visitors_are_told_apart_by_address(client, forwarded, visitor):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    scope = {"type": "http", "client": (client, 5), "headers": headers}
    assert visitor_of(scope, behind_proxy=True) == visitor
    assert forwarded is None or visitor_of(scope) == client
