"""The page that draws without a server, of the bundled model, against the engine in float32."""

import base64
import functools
import http.server
import random
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from yoso_core.conditioning import edge_map, scribble_map
from yoso_core.engine import Engine
from yoso_core.files.metadata import read_request
from yoso_core.loading import load_model
from yoso_core.models import MODELS
from yoso_core.requests import DEFAULT_MODEL, ControlUse, EditRequest, GenerateRequest, RequestError
from yoso_core.web.export import export_page, fetch_runtime

TOLERANCE = 3  # of 255 levels
PROMPTS = 50
ODD = [
    *(
        "",
        " ",
        "a red heart, 3d",
        "It's the dog's; don't we'll they've I'm he'd",
        "12345 678",
        "日本語 テスト",
        "a_b-c.d,e",
    ),
    *("a\u00a0b\u2003c\ufeffd\x85e", "ΣΟΦΟΣ İstanbul ﬁ ǅ", "<|endoftext|> <|ENDOFTEXT|>!<|startoftext|>x", "e\u0301 é"),
    *("!!!'s ''t $#@", "\U0001f469\u200d\U0001f469\u200d\U0001f467 🐼❤️🇩🇪", "\U0001d54f math ½ ²", "naïve café " * 20),
]
DRAW = """async request => {
  const {Artist} = await import('./artist.js');
  window.artist ??= new Artist();
  const {data, width, height} = await artist.draw(request);
  return {width, height, data: btoa(String.fromCharCode(...data))};
}"""


def wait(until):
    """The page lets nothing be evaluated in it, which playwright's own way takes."""
    ends = time.monotonic() + 30
    while not until():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def model():
    return load_model(MODELS[DEFAULT_MODEL], dtype=torch.float32)


@pytest.fixture(scope="module")
def site(model, tmp_path_factory):
    """Address of the exported page, on a server that sends no headers of its own."""
    try:
        fetch_runtime()
    except RequestError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("web") / "out"
    sizes = export_page(model, [(model.one_step, 1.0)], out)
    assert sum(sizes.values()) < 40e6

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=out))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def page(browser, site):
    """The page with its first picture; errors of its scripts fail the test."""
    context = browser.new_context(accept_downloads=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(site)
    page.wait_for_selector("#picture:not(.none)", timeout=60_000)
    yield page
    context.close()
    assert not errors


@pytest.fixture(scope="module")
def reference():
    return Engine({DEFAULT_MODEL: MODELS[DEFAULT_MODEL]}, device="cpu", dtype=torch.float32, runtime="torch")


def prompts():
    """Fifty, with styles, emoji, counts and what no model knows."""
    choose, words = random.Random(0), MODELS[DEFAULT_MODEL].words
    plain = choose.sample(words.names, PROMPTS - 6)
    styles = [choose.choice(["", ", 3d", ", flat", ", noto", ", twemoji"]) for _ in plain]
    return [name + style for name, style in zip(plain, styles, strict=True)] + [
        "🐼", "a 🍕 and a ❤️, 3d", "", "gefrorene Brücke", "two cats, 3d", "a very long story " * 12,
    ]  # fmt: skip


def rgba(picture):
    return list(picture.convert("RGBA").tobytes())


def pixels(made):
    levels = np.frombuffer(base64.b64decode(made["data"]), np.uint8)
    return levels.reshape(made["height"], made["width"], 4)[..., :3].astype(np.int16)


def farthest(page, reference, request, **asked):
    (expected,) = reference.run(request).pictures
    made = page.evaluate(DRAW, {"prompt": request.prompt, "seed": request.seed, **asked})
    return np.abs(pixels(made) - np.asarray(expected, np.int16)).max()


def drawing(side):
    """A blue circle with a black rim on white."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    far, colours = np.hypot(x, y), np.full((side, side, 3), 255, np.uint8)
    colours[far < 0.4] = (20, 20, 20)
    colours[far < 0.33] = (60, 120, 240)
    return Image.fromarray(colours)


def test_noise_is_torchs(page):
    for seed in (0, 1, 12345, 2**32 - 1):
        for size in (1, 2, 15, 16, 17, 500, 512, 4096):
            made = page.evaluate(
                "async ([seed, size]) => [...(await import('./noise.js')).normal(seed, size)]", [seed, size]
            )
            expected = torch.randn(size, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(torch.tensor(made), expected, atol=2e-6, rtol=2e-6)


def test_tokens_are_transformers(page, model):
    words, tokenizer = model.spec.words, model.parts["tokenizer"]
    known = [f"{emoji} and {name}" for emoji, name in list(words.emoji.items())[::7]]
    texts = [*ODD, *known, *words.names, " ".join(words.names[:40])]
    made = page.evaluate(
        """async texts => {
          const {Tokenizer} = await import('./tokenizer.js'), text = async name => (await fetch(name)).text();
          const [about, vocabulary] = [await text('model.json'), await text('tokenizer/vocab.json')].map(JSON.parse);
          const tokenizer = new Tokenizer(vocabulary, await text('tokenizer/merges.txt'), about.tokenizer);
          return texts.map(text => tokenizer.split(text));
        }""",
        texts,
    )
    for text, tokens in zip(texts, made, strict=True):
        assert tokens == tokenizer(text, add_special_tokens=False).input_ids, text


def test_emoji_are_spelled_out_as_in_python(page, model):
    words = model.spec.words
    texts = [*ODD, *(f"a {emoji}, flat {emoji}{emoji}" for emoji in words.emoji), "a ❤️‍🔥 and 👩‍🚀"]
    made = page.evaluate(
        """async texts => {
          const {spelling} = await import('./tokenizer.js'), {emoji} = await (await fetch('words.json')).json();
          return texts.map(spelling(emoji));
        }""",
        texts,
    )
    assert made == [words.spelled_out(text) for text in texts]


@pytest.mark.parametrize("name, made_by", [("drawn", scribble_map), ("edges", lambda one: edge_map(one, 100, 200))])
def test_lines_are_opencvs(page, name, made_by):
    numbers = np.random.default_rng(0)
    smooth = Image.fromarray(numbers.integers(0, 256, (9, 9, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    for picture in (drawing(64), smooth, Image.fromarray(numbers.integers(0, 256, (48, 48, 3), np.uint8))):
        given = {"data": rgba(picture), "width": picture.width, "height": picture.height}
        made = page.evaluate("async ([name, given]) => [...(await import('./lines.js'))[name](given)]", [name, given])
        expected = np.asarray(made_by(picture), np.float32).transpose(2, 0, 1) / 255
        assert (np.array(made, np.float32).reshape(expected.shape) != expected).mean() == 0


def test_fifty_prompts_are_the_engines_pictures(page, reference):
    asked = [GenerateRequest(prompt, seed=1000 + 7 * number) for number, prompt in enumerate(prompts())]
    worst = {request.prompt: farthest(page, reference, request) for request in asked}
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("strength", [0, 0.3, 0.75, 1])
def test_pictures_of_pictures_are_the_engines(page, reference, strength):
    picture = drawing(64)
    given = {"data": rgba(picture), "width": 64, "height": 64}
    for lines, annotator in (("none", None), ("drawn", "scribble"), ("edges", "canny")):
        control = annotator and ControlUse(picture=picture, annotator=annotator, strength=0.8)
        request = EditRequest("a blue ball, 3d", seed=5, strength=strength, picture=picture, control=control)
        asked = {"picture": given, "strength": strength, "lines": lines, "follow": 0.8}
        assert farthest(page, reference, request, **asked) <= TOLERANCE, lines


def test_the_last_wish_wins(page):
    made = page.evaluate("""async () => {
      const {Artist} = await import('./artist.js'), artist = new Artist();
      await artist.draw({prompt: 'crown', seed: 0});
      const asked = [...Array(12).keys()].map(seed => artist.draw({prompt: 'crown', seed}));
      return (await Promise.all(asked)).map(Boolean);
    }""")
    assert made[-1] and made.count(False) >= 9


def test_a_saved_picture_says_how_it_was_made(page):
    page.fill("#prompt", "a small café")
    page.fill("#seed", "77")
    expect(page.locator("#told")).to_contain_text("seed 77")
    with page.expect_download() as saved:
        page.click("#save")
    request = read_request(saved.value.path()).request
    assert (request.prompt, request.seed, request.steps) == ("a small café, 3d", 77, 1)


def test_it_draws_on_what_is_painted_and_works_without_a_network(page):
    page.click("#draw")
    expect(page.locator("#strength-said")).to_have_text("0.85")
    shown = "document.querySelector('#picture').toDataURL()"
    before = page.evaluate(shown)
    box = page.locator(".canvas-stack").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 160, steps=3)
    page.mouse.up()
    wait(lambda: page.evaluate(shown) != before)
    assert page.evaluate("crossOriginIsolated")
    listed = "async () => (await (await caches.open('yoso')).keys()).map(key => new URL(key.url).pathname)"
    wait(lambda: "/networks/encoder.onnx.deflate" in page.evaluate(listed))
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("#picture:not(.none)", timeout=60_000)
    expect(page.locator("#told")).to_contain_text("seed 0")
    page.context.set_offline(False)
