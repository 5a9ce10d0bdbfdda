"""No finding of axe-core at level AA on any tab in both themes; focus, fingers and announcements, which it misses."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.test_edit import SETTLED, expect_change

LEVEL_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all that a theme changes
# What is there once a tab is.
CONTENT = {
    "Generate": "#stage img",
    "Edit": "#result img",
    "Translate": "#translate-canvas canvas",
    "Compare": "#climb",
    "Train": "#train-tab p",
    "Models": "#shelf .card",
}
# Of Gradio's own markup, which can't be changed from here.
GRADIO = ("footer", ".toast-wrap")


def findings(page, rules):
    """What axe-core finds, in words."""
    context = {"exclude": [[selector] for selector in GRADIO]}
    found = Axe().run(page, context=context, options=rules).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for each in found
        for node in each["nodes"]
    ]


def test_no_finding_at_level_aa(page):
    page.set_viewport_size({"width": 1440, "height": 1000})
    expect(page.locator("#history .heard")).to_contain_text("Picture drawn: a red heart")
    page.click("#history .strip button")
    found = {}

    def look(name):
        """In the light and then in the dark, as ``?__theme=dark`` makes it."""
        for theme, rules in (("light", LEVEL_AA), ("dark", COLOURS)):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            page.evaluate(SETTLED)  # colours glide
            if problems := findings(page, rules):
                found[f"{name}, {theme}"] = problems
        page.evaluate("() => document.body.classList.remove('dark')")

    tabs = page.locator("#tabs").get_by_role("tab").all_inner_texts()
    assert set(tabs) == set(CONTENT)
    for tab in tabs:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(CONTENT[tab])
        page.evaluate("() => document.querySelectorAll('.label-wrap:not(.open)').forEach(each => each.click())")
        look(tab)
    page.get_by_role("tab", name="Generate").click()
    page.click("#history [data-do=full]")
    look("full view")
    page.keyboard.press("Escape")
    assert not found, "\n".join(f"{tab}: {problem}" for tab, problems in found.items() for problem in problems)

    # What it misses: the focus is seen.
    for selector in ("#generate", "#seed input", "#strength input[type=range]", "#style input"):
        if selector.startswith("#strength"):
            page.get_by_role("tab", name="Edit").click()
        page.locator(selector).first.focus()
        page.keyboard.press("Shift")  # as by the keyboard
        outline = """selector => {
            const style = [document.activeElement, document.activeElement.closest('label')].filter(Boolean);
            return style.some(each => getComputedStyle(each).outlineStyle !== 'none'
                || getComputedStyle(each).boxShadow !== 'none' || getComputedStyle(each).borderColor !== '');
        }"""
        assert page.evaluate(outline), selector


SMALL = """() => [...document.querySelectorAll('button, [role=tab], .chips label, .segments label')]
    .filter(each => each.offsetParent && !each.closest('footer, .visually-hidden, .lora, .stage, .strip'))
    .filter(each => each.getBoundingClientRect().height < 44)
    .map(each => each.outerHTML.slice(0, 100))"""
PINCH = """() => {
    const mask = document.querySelector('#canvas .mask'), {left, top} = mask.getBoundingClientRect();
    const touch = (kind, pointerId, x) => mask.dispatchEvent(new PointerEvent(kind, {
        pointerId, pointerType: 'touch', bubbles: true, clientX: left + x, clientY: top + 150}));
    touch('pointerdown', 8, 100); touch('pointerdown', 9, 200);
    for (const x of [220, 250, 300]) touch('pointermove', 9, x);
    touch('pointerup', 8, 100); touch('pointerup', 9, 300);
}"""
# Whether another picture than `shown` is there and seen, in its place or in the corner.
ANSWERED = """shown => {
    const inset = document.querySelector('#inset'), image = document.querySelector('#result .pictures img');
    const box = image.getBoundingClientRect(), seen = box.top < innerHeight && box.bottom > 0;
    return image.src !== shown && (inset.hidden ? seen : inset.querySelector('img').src === image.src);
}"""


def test_a_phone_sees_the_answer_while_it_draws_and_drags_and_its_buttons_fit_a_finger(browser, studio):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(studio)
    page.wait_for_selector("#stage img")
    # The picture stands under the prompt, and nothing is beside the screen.
    prompt, picture = page.locator("#prompt textarea").bounding_box(), page.locator("#stage img").bounding_box()
    assert prompt["y"] < picture["y"] and picture["y"] + picture["height"] < 844
    for control in ("#generate", "#live", "#style", "#dice", "#save"):
        box = page.locator(control).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    for tab in ("Translate", "Compare", "Train", "Models", "Generate", "Edit"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(CONTENT[tab])
        page.evaluate(SETTLED)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
        assert page.evaluate(SMALL) == [], tab
    page.wait_for_selector("#result img")
    page.locator("#canvas .mask").scroll_into_view_if_needed()
    expect(page.locator("#inset img")).to_be_visible()
    shown = page.locator("#inset img").get_attribute("src")
    box = page.locator("#canvas .mask").bounding_box()
    for part in (0.3, 0.5, 0.7):
        page.touchscreen.tap(box["x"] + part * box["width"], box["y"] + part * box["height"])
    page.wait_for_function(ANSWERED, arg=shown)
    expect(page.locator("#inset.left")).to_have_count(1)  # away from the hand
    drawn = expect_change(page, shown)
    strength = page.locator("#strength input[type=range]")
    strength.scroll_into_view_if_needed()
    strength.press("Home")
    page.wait_for_function(ANSWERED, arg=drawn)
    expect(page.locator("#canvas .ring")).to_be_hidden()  # a finger needs none
    # Two fingers look closer, and draw nothing.
    ink = "() => document.querySelector('#canvas .ink').toDataURL()"
    drawn = page.evaluate(ink)
    page.locator("#canvas .mask").scroll_into_view_if_needed()
    page.evaluate(PINCH)
    expect(page.locator("#canvas [data-do=zoom]")).to_contain_text("Zoom 2")
    assert page.evaluate(ink) == drawn
    context.close()
