"""The Train tab as a person uses it, on the tiny model: pictures in, a run to watch, to use and to take away."""

import re
import subprocess
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import expect

from app.train_tab import EVERY, SELDOM
from app.ui import build_app, launch_options
from tests.browser.test_edit import expect_change
from tests.processes import begin, clean
from tests.test_train_tab import checkpoint, draw_preview, hand_made, hand_over, losses, pictures, tell
from train.runs.estimates import Estimate, Estimates
from train.runs.jobs import Runs
from yoso_core.engine import Engine
from yoso_core.requests import DEFAULT_MODEL

PATIENCE = 240_000  # milliseconds that the process of a run may take to begin, or to end
STAGE, HEAD, PREVIEW = "#stage img", "#run-head", "#preview img"
# Of the form; the run would take minutes, and is stopped before.
SHORT = {"steps": 3000, "batch": 2, "rank": 2, "alpha": 2, "warmup": 1, "checkpoint_every": 10, "preview_every": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of runs."""
    return tmp_path_factory.mktemp("trained") / "runs"


@pytest.fixture(autouse=True)
def no_runs(root):
    """Every test begins with none; whatever still trains at its end is killed."""
    yield
    for job in Runs(root).all(""):
        job.discard()


@pytest.fixture(scope="module")
def studio(tiny_spec, root, tmp_path_factory):
    """Address of a studio on a machine of one's own. The process of a run finds its second model by its folder."""
    models = {DEFAULT_MODEL: replace(tiny_spec, family=""), "small": replace(tiny_spec, title="Small", family="")}
    demo = build_app(Engine(models, device="cpu"), [], tmp_path_factory.mktemp("loras"), root, "local")
    clean("app.ui")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", begin)
        patch.setattr(Estimates, "get", lambda *_: Estimate(0.05, 6.0, 1_500_000_000))  # measuring is a run, too
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
        yield address
        demo.close()


def open_tab(page, name="Train"):
    page.get_by_role("tab", name=name).click()


def caption(page, file):
    return page.locator(f'.picture[data-file="{file}"] .caption')


def drop_pictures(page, folder):
    paths = pictures(folder)
    for number, letter in enumerate("abcdefgh"):
        path = folder / f"a square {letter}.png"
        Image.new("RGB", (64, 64), (30 * number, 200, 90)).save(path)
        paths.append(str(path))
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "a red thing.txt").write_text("a thing of red paint")
    page.set_input_files("#train-files input[type=file]", [*paths, folder / "torn.png", folder / "a red thing.txt"])
    expect(page.locator("#report")).to_contain_text("11 pictures can be used")


def fill_form(page, values):
    page.locator("#run-advanced > button").click()
    for name, value in values.items():
        page.fill(f"#run-form [data-name={name}] input", str(value))
        page.keyboard.press("Tab")


def drag(page, slider, value):
    page.locator(f"{slider} input[type=range]").fill(str(value))


def source(page, selector=STAGE):
    return page.locator(selector).first.get_attribute("src")


def expect_step(page, least):
    """Wait until the run is at least so far."""
    done = (
        "least => Number(/step ([\\d,]+) of/.exec(document.querySelector('#run-head').innerText)?.[1].replace(',', ''))"
        " >= least"
    )
    page.wait_for_function(done, arg=least, timeout=PATIENCE)


def test_from_pictures_to_a_lora_in_use(page, tmp_path):
    page.locator("#style label", has_text="3d").click()
    open_tab(page)
    expect(page.locator("#ask")).to_be_hidden()  # the prompt of the other tabs
    drop_pictures(page, tmp_path / "in")
    expect(page.locator("#report .problem")).to_contain_text("torn.png: skipped")
    expect(page.locator(".picture")).to_have_count(11)
    expect(caption(page, "a red thing.png")).to_have_value("a thing of red paint")
    assert page.locator(".picture .thumbnail").first.evaluate("e => e.style.backgroundImage").startswith('url("data:')
    expect(caption(page, "a blue thing.png")).to_have_class(re.compile("from-name"))
    caption(page, "a blue thing.png").fill("a thing of <b>ink</b>")
    page.keyboard.press("Enter")
    expect(caption(page, "a green thing.png")).to_be_focused()
    expect(caption(page, "a blue thing.png")).not_to_have_class(re.compile("from-name"))
    page.locator('.picture[data-file="a square b.png"] .remove').click()
    expect(page.locator(".picture")).to_have_count(10)

    page.locator("#preset label", has_text="Style, quick").click()
    page.fill("#trigger input", "mint stencil")
    page.fill("#run-title input", "Mint")
    page.click("#run-base input")
    page.get_by_role("option", name="Small").click()
    fill_form(page, SHORT)
    expect(page.locator("#cost")).to_contain_text(re.compile(r"3,000 steps, 2 pictures a step · about 3 min"))
    page.click("#start")
    expect(page.locator(f"{HEAD} h2")).to_contain_text("Mint", timeout=PATIENCE)
    expect(page.locator("#new-run")).to_be_hidden()
    expect_step(page, 10)
    expect(page.locator(f"{HEAD} .state")).to_contain_text("Training.")
    expect(page.locator(PREVIEW)).to_have_attribute("alt", re.compile("after [1-9]0+ steps"), timeout=PATIENCE)
    expect(page.locator("#curves polyline").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#runs button[aria-pressed=true]")).to_contain_text("training")

    page.reload()
    expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator(f"{HEAD} h2")).to_contain_text("Mint")
    expect(page.locator("#runs button[aria-pressed=true]")).to_contain_text("Mint")
    expect(page.locator("#curves polyline").first).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#keep-run")
    expect(page.locator(f"{HEAD} .state")).to_contain_text("Ended and kept.", timeout=PATIENCE)
    expect(page.locator("#pause")).to_be_hidden()
    expect(page.locator("#keep-run")).to_be_hidden()
    expect(page.locator(PREVIEW)).to_be_visible()
    newest = source(page, PREVIEW)
    drag(page, "#scrub", 0)
    expect(page.locator(PREVIEW)).to_have_attribute("alt", re.compile("after 0 steps"))
    assert source(page, PREVIEW) != newest

    page.fill("#try-prompt textarea", "a red thing")
    page.click("#sample")
    expect(page.locator("#try-stage img")).to_have_attribute("alt", re.compile("^a red thing, seed 0"))
    with_it = source(page, "#try-stage img")
    drag(page, "#try-weight", 0)
    expect(page.locator("#try-stage img")).not_to_have_attribute("src", with_it)

    page.click("#use-run")
    expect(page.locator("#prompt textarea")).to_have_value("a red heart, mint stencil")
    expect(page.locator("#style label.selected")).to_have_text("3d")
    expect(page.locator("#model input")).to_have_value("Small")
    expect(page.locator(STAGE)).to_have_attribute("alt", "a red heart, mint stencil, 3d, seed 0")
    row = page.locator('.lora[data-id^="run-mint-"]')  # its snapshots are of one card
    expect(row.locator(".weight output")).to_have_text("1.00")
    shown, pictures_by_weight = expect_change(page, "", STAGE), {}
    for weight in (0.5, 0.0, 1.0):
        row.locator(".weight input").fill(str(weight))
        expect(row.locator(".weight output")).to_have_text(f"{weight:.2f}")
        shown = pictures_by_weight[weight] = expect_change(page, shown, STAGE)
    row.get_by_label("Step of Mint").fill("0")  # the first of its snapshots, with the same weight
    expect(row.locator(".steps output")).to_have_text(re.compile(r"^\d+$"))
    expect(row.locator(".weight output")).to_have_text("1.00")
    expect_change(page, shown, STAGE)
    row.locator(".toggle").click()
    expect(row).not_to_have_class(re.compile(r"\bon\b"))
    expect(page.locator(STAGE)).to_have_attribute("src", pictures_by_weight[0.0])  # off is the same as a weight of 0
    assert len(set(pictures_by_weight.values())) == 3

    open_tab(page)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#discard")
    page.wait_for_timeout(1000)
    expect(page.locator(f"{HEAD} h2")).to_contain_text("Mint")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#discard")
    expect(page.locator("#new-run")).to_be_visible()
    expect(page.locator("#runs button")).to_have_count(1)
    expect(page.locator(".picture")).to_have_count(0)  # they were the run's own
    open_tab(page, "Generate")
    expect(page.locator('.lora[data-id^="run-"]')).to_have_count(0)
    page.fill("#prompt textarea", "a hat")
    expect(page.locator(STAGE)).to_have_attribute("alt", re.compile("^a hat"))


def test_runs_are_chosen_from_the_row(page, root):
    for name, state in (("sky", "finished"), ("sea", "paused")):
        job = hand_made(root, state, name)
        draw_preview(job, 0, 10)
        checkpoint(job)
    open_tab(page)
    expect(page.locator("#runs button")).to_have_count(3)  # from another window, within two seconds
    for name in ("Sky", "Sea"):
        page.locator("#runs button", has_text=name).click()
        expect(page.locator(f"{HEAD} h2")).to_contain_text(name)
        expect(page.locator("#resume")).to_be_visible(visible=name == "Sea")
    page.locator("#runs button", has_text="New run").click()
    expect(page.locator("#new-run")).to_be_visible()
    expect(page.locator("#run")).to_be_hidden()
    for job in Runs(root).all(""):
        job.discard()
    expect(page.locator("#runs button")).to_have_count(1)


def test_a_tab_that_is_opened_late_shows_all_the_same(page, root, tmp_path):
    open_tab(page)
    drop_pictures(page, tmp_path / "in")
    hand_made(root, "finished", "sky")
    open_tab(page, "Generate")
    page.wait_for_timeout(500)  # which is kept
    page.reload()
    page.wait_for_selector(STAGE)
    page.wait_for_timeout(2500)  # what there is to show has come long before
    open_tab(page)
    expect(page.locator("#runs button")).to_have_count(2)
    expect(page.locator(".picture")).to_have_count(11)


def test_a_dark_phone_shows_all_of_both_panels(browser, studio, root, tmp_path):
    job = hand_made(root, "finished", "a style of a rather long name and of many words")
    tell(job, losses(1), losses(20), losses(40, 0.2))
    draw_preview(job, 0, 20, 40)
    hand_over(job, 40)
    page, errors = browser.new_page(viewport={"width": 390, "height": 844}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(studio + "?__theme=dark")
    page.wait_for_selector(STAGE)
    open_tab(page)
    drop_pictures(page, tmp_path / "in")
    page.locator("#run-advanced > button").click()
    expect(page.locator("#run-form [data-name=steps]")).to_be_visible()
    assert_fits(page, "#train-files", "#trigger", ".picture-table", "#preset", "#run-base", "#run-form", "#start")
    page.locator("#runs button", has_text="Style").click()
    expect(page.locator("#curves polyline")).to_be_visible()
    for accordion in page.get_by_role(
        "button", name=re.compile("^(Push to a model hub|Log, command and settings)")
    ).all():
        accordion.click()
    expect(page.locator("#run-log pre").first).to_be_visible()
    assert_fits(page, HEAD, "#discard", "#preview", "#scrub", "#curves", "#sample", "#use-run", "#zip-run", "#run-log")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.close()
    assert not errors


def test_runs_are_looked_at_seldom_where_nobody_sees_them(page):
    page.add_init_script("""window.waits = [];
        const begin = setInterval;
        window.setInterval = (deed, wait, ...rest) => { waits.push(wait); return begin(deed, wait, ...rest); };""")
    page.reload()
    page.wait_for_selector("#stage img")
    often, seldom = 1000 * EVERY, 1000 * SELDOM
    assert not page.evaluate(f"waits.includes({often})")
    for tab, wait in (("Train", often), ("Generate", seldom)):
        page.evaluate("waits.length = 0")
        page.get_by_role("tab", name=tab).click()
        page.wait_for_function(f"waits.includes({wait})")
        assert not page.evaluate(f"waits.includes({often + seldom - wait})")


def assert_fits(page, *selectors):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for selector in selectors:
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, selector
