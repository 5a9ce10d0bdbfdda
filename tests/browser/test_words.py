"""Help with words: what the model knows is offered, and what it does not know is said."""

from playwright.sync_api import expect

from tests.browser.test_generate import of_seed

PROMPT = "#prompt textarea"


def test_what_the_model_knows_is_offered_and_what_it_does_not_is_said(page):
    page.click(PROMPT)
    page.keyboard.press("Control+a")
    page.keyboard.type("a pan")
    options = page.locator("#known-names [role=option]")
    expect(options).to_have_text(["pancakes", "panda"])
    expect(page.locator(PROMPT)).to_have_attribute("aria-expanded", "true")
    # It hides nothing of what one wants next.
    names, prompt = (page.locator(each).bounding_box() for each in ("#known-names", PROMPT))
    assert names["y"] >= 0 and names["y"] + names["height"] <= prompt["y"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(PROMPT)).to_have_value("a panda")
    expect(page.locator("#stage img")).to_have_attribute("alt", of_seed("a panda", 0))
    page.keyboard.type(" with a pola")
    expect(options).to_have_text(["polar bear"])
    page.keyboard.press("Escape")
    expect(options).to_have_count(0)
    expect(page.locator(PROMPT)).to_have_value("a panda with a pola")

    # Where nothing is above the prompt, it opens below.
    page.evaluate("() => { document.querySelector('#header').style.display = 'none'; }")
    page.keyboard.type("r")
    expect(options).to_have_text(["polar bear"])
    names, prompt = (page.locator(each).bounding_box() for each in ("#known-names", PROMPT))
    assert names["y"] >= prompt["y"] + prompt["height"]
    page.evaluate("() => { document.querySelector('#header').style.display = ''; }")

    # Nothing is guessed from a whole word, and styles have pictures.
    page.fill(PROMPT, "")
    page.click(PROMPT)
    page.keyboard.type("pan")
    expect(options).to_have_text(["pancakes", "panda"])
    page.keyboard.type("da, flat")  # a style, and no beginning of a name
    expect(options).to_have_count(0)
    page.keyboard.type(" hat")
    expect(options).to_have_text(["top hat", "hatching chick"])  # the word itself before what begins like it
    shown = "document.querySelector('#style label:nth-of-type(2)'), '::before').backgroundImage"
    page.wait_for_function(f"getComputedStyle({shown}.startsWith('url(\"data:image')")

    # What is being typed may still become a word that is known.
    page.fill(PROMPT, "")
    page.click(PROMPT)
    page.keyboard.type("flurble pan")
    expect(page.locator("#words .told")).to_have_text("“flurble”: a word that the model never learned")

    # What is not known is said, and how characters are read.
    page.fill(PROMPT, "a 🐼 flurble")
    expect(page.locator("#words .told")).to_contain_text("“flurble”: a word that the model never learned")
    expect(page.locator("#words .told")).to_contain_text("🐼 is read as “panda”")
    page.fill(PROMPT, "a polar bear")
    expect(page.locator("#words .told")).to_have_text("")
    page.fill(PROMPT, "(flurble:1.3) BREAK {2::panda|boat} <lora:waves:0.8>")
    expect(page.locator("#words .told")).to_have_text("“flurble”: a word that the model never learned")
    page.fill(PROMPT, "flurble")
    expect(page.locator("#info")).to_contain_text("The model never learned “flurble”")
