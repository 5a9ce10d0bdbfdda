"""Pictures and what is said of them, as the page shows and hands them out."""

import base64
import html
import io
import logging
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from yoso_core.drawing import PictureError, Result
from yoso_core.files.metadata import png_info
from yoso_core.files.pictures import fitted, open_picture
from yoso_core.prompts import choose
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.service import Report, Service
from yoso_core.turns import COME_FIRST

LOG = logging.getLogger(__name__)
LOSSLESS_SIDE = 256  # up to this many pixels a PNG costs next to nothing; above, live pictures travel as JPEG
SHOWN_SIDE = 256  # smaller pictures are enlarged before they travel: browsers do it bilinearly, which looks soft
DATA_LIMIT = 28_000_000  # characters of a data URL: 20 MB in base64
THUMBNAIL_SIDE = 160
SAVED_SIDE = 4096  # pixels; no picture is enlarged to more
EMPTY = '<div class="pictures empty"></div>'


def plain(sentence: str) -> str:
    """A sentence for a toast, which shows HTML; it may repeat what a link or a file says."""
    return html.escape(as_sentence(sentence), quote=False)


def run(engine: Service, request: GenerateRequest, progress: Callable[..., Any] | None = None) -> Result:
    """Run a request; whatever goes wrong is one sentence in a ``gr.Error``.

    Args:
        engine: answers it.
        request: what is asked.
        progress: Gradio's, which says how many pictures come first, as long as some do.
    """
    try:
        return engine.run(request, come_first(progress))
    except (RequestError, PictureError) as error:
        raise gr.Error(plain(str(error)), print_exception=False) from None
    except Exception:  # whatever it is, the page must go on
        LOG.exception("unforeseen while drawing")
        raise gr.Error("Something went wrong that the server's log tells of; please try again.") from None


def come_first(progress: Callable[..., Any] | None) -> Report:
    """What hears an engine, and says through Gradio's progress how many pictures of others come first."""

    def report(message: str) -> None:
        number, _, words = message.partition(" ")
        if progress is not None and words == COME_FIRST:
            progress((int(number), None), unit=words if number != "1" else "picture comes first")

    return report


def png_uri(picture: Image.Image) -> str:
    """The picture as it is, for what is drawn on again."""
    return _uri(picture, "PNG", compress_level=1)


def data_uri(picture: Image.Image) -> str:
    """The picture as the page shows it; saved ones are neither enlarged nor compressed with loss."""
    picture = _enlarged(picture)
    return png_uri(picture) if max(picture.size) <= LOSSLESS_SIDE else _uri(picture, "JPEG", quality=90)


def live_uri(picture: Image.Image) -> str:
    """The picture while it is being made: a fifth of the time of a PNG, half the bytes, the same to the eye."""
    return _live_uri(picture.mode, picture.size, picture.tobytes())


@lru_cache(maxsize=4)  # while a slider moves, the picture before it is the same one each time
def _live_uri(mode: str, size: tuple[int, int], pixels: bytes) -> str:
    return _uri(_enlarged(Image.frombytes(mode, size, pixels)), "JPEG", quality=95, subsampling=0)


def thumbnail_uri(picture: Image.Image) -> str:
    """The picture where many are on the page, its shape kept."""
    return _uri(fitted(picture, THUMBNAIL_SIDE, "pad"), "JPEG", quality=88)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = max(SHOWN_SIDE // max(picture.size), 1)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_data_uri(value: object, what: str, limit: int = DATA_LIMIT) -> tuple[Image.Image, tuple[str, ...]]:
    """An RGB picture out of a ``data:`` URL that a browser sent, and what was done to it.

    Raises:
        RequestError: it is none, too large, or no picture.
    """
    opened = open_picture(data_uri_file(value, what, limit))
    return opened.picture, opened.notes


def data_uri_file(value: object, what: str, limit: int = DATA_LIMIT) -> io.BytesIO:
    """The file in a ``data:`` URL of a picture that a browser sent.

    Raises:
        RequestError: it is none, or too large.
    """
    if not isinstance(value, str) or not value.startswith("data:image/") or ";base64," not in value[:100]:
        raise RequestError(f"{what} is no picture; choose a PNG, JPEG, WebP or GIF.")
    if len(value) > limit:
        raise RequestError(f"{what} is larger than {limit * 3 // 4 // 1_000_000} MB; please choose a smaller one.")
    try:
        data = base64.b64decode(value.split(",", 1)[1], validate=True)
    except ValueError:
        raise RequestError(f"{what} is damaged; please try again.") from None
    return io.BytesIO(data)


def pictures_html(result: Result) -> str:
    """The pictures, in as square a grid as their number allows."""
    columns = math.ceil(math.sqrt(len(result.pictures)))
    cells = "".join(_cell(result, index) for index in range(len(result.pictures)))
    width, height = result.pictures[0].size
    return f'<div class="pictures" style="--columns: {columns}; --ratio: {width / height:.3f}">{cells}</div>'


def _cell(result: Result, index: int, uri: Callable[[Image.Image], str] = data_uri) -> str:
    """A picture that a click looks at."""
    seed = result.seeds[index]
    prompt = html.escape(choose(result.request.prompt, seed) or "no prompt")
    image = (
        f'<img data-seed="{seed}" src="{uri(result.pictures[index])}" alt="{prompt}, seed {seed}" draggable="false">'
    )
    return f'<button type="button" data-seed="{seed}" title="Look at the picture of seed {seed}">{image}</button>'


def result_html(result: Result) -> str:
    """What was made of a picture, with the one before on top, which the page uncovers by a slider, and the lines.

    Of several pictures the first; the others are in a row below.
    """
    images = _cell(result, 0, live_uri)
    if result.before is not None:
        images += f'<img class="before" src="{live_uri(result.before)}" alt="before" draggable="false">'
    if result.control_map is not None:
        images += (
            '<button type="button" class="map" title="What it follows; a click hides it and brings it back">'
            f'<img src="{data_uri(result.control_map)}" alt="what it follows" draggable="false"></button>'
        )
    cells = "".join(_cell(result, index) for index in range(1, len(result.pictures)))
    return f'<div class="pictures">{images}</div>' + (f'<div class="variations">{cells}</div>' if cells else "")


def info_html(result: Result) -> str:
    """What it took to make the pictures, what was done to those given, and what the model did not read."""
    evaluations, seeds = result.evaluations, result.seeds
    several = len(seeds) > 1
    parts = [f"{evaluations} network evaluation{'s' * (evaluations != 1)}{' a picture' * several}"]
    parts += [
        f"{name} {seconds * 1000:.0f} ms"
        for name, seconds in result.seconds.items()
        if round(seconds * 1000) or name == "text"
    ]
    width, height = result.pictures[0].size
    parts.append(f"{width} x {height} pixels")
    parts.append(f"seeds {seeds[0]} to {seeds[-1]}" if several else f"seed {seeds[0]}")
    lines = [f'<p class="figures">{" · ".join(f"<span>{part}</span>" for part in parts)}</p>']
    notes = list(result.notes)
    if not result.request.prompt:
        notes.append("Without a prompt the model draws what it likes.")
    if result.cut:
        notes.append(f"Too long: the model did not read “{result.cut}”.")
    if notes:  # as one paragraph: nine seeds may have nine choices to tell of
        lines.append(f'<p class="note">{html.escape(" ".join(map(as_sentence, notes)))}</p>')
    return "".join(lines)


def as_sentence(text: str) -> str:
    """A message of a library as a sentence of the page: with a full stop and a capital, but file names as they are."""
    text = text.strip()
    first = text.partition(" ")[0].rstrip(".,:;")
    if "/" not in first and "." not in first:
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def problem_html(sentence: str) -> str:
    """Takes a sentence as it is, not one that `plain` was applied to."""
    return f'<p class="note problem" role="alert">{html.escape(as_sentence(sentence))}</p>'


def saved_name(request: GenerateRequest, seed: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", choose(request.prompt, seed).lower()).strip("-")[:40].rstrip("-")
    return f"{words or 'picture'}-{seed}.png"


def png_files(result: Result, folder: str, times: int = 1) -> list[str]:
    """Paths of the pictures as PNG with metadata, in Gradio's cache `folder`, which is cleaned up by age.

    Args:
        result: has the pictures.
        folder: of the cache.
        times: how many times as wide and high they are saved, by resampling.
    """
    paths = []
    for index, seed in enumerate(result.seeds):
        buffer = io.BytesIO()
        enlarged(result.pictures[index], times).save(buffer, "PNG", pnginfo=png_info(result, index))
        paths.append(save_bytes_to_cache(buffer.getvalue(), saved_name(result.request, seed), folder))
    return paths


def on_saved(button: str) -> str:
    """A script that presses a hidden download button, once the page has its new link."""
    return f"() => setTimeout(() => document.querySelector('#{button}').click(), 50)"


def save_picture(picture: Image.Image, name: str, folder: str) -> str:
    """Path of a picture as PNG without metadata, in Gradio's cache `folder`."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return save_bytes_to_cache(buffer.getvalue(), name, folder)


def enlarged(picture: Image.Image, times: int) -> Image.Image:
    """A picture so many times as wide and high, the longer side at most `SAVED_SIDE`."""
    times = max(1, min(times, SAVED_SIDE // max(picture.size)))
    size = (picture.width * times, picture.height * times)
    return picture if times == 1 else picture.resize(size, Image.Resampling.LANCZOS)


def download_file(results: Sequence[Result], folder: str, times: int = 1) -> str:
    """Path of what "Save" hands out: one PNG, or a zip of several."""
    paths = [path for result in results for path in png_files(result, folder, times)]
    if len(paths) == 1:
        return paths[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, path in enumerate(paths, 1):
            archive.write(path, f"{number:02d}-{Path(path).name}")
    return save_bytes_to_cache(buffer.getvalue(), Path(paths[0]).with_suffix(".zip").name, folder)
