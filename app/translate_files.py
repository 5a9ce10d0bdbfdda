"""Many files on the Translate tab: dropped, translated one after the other, handed out as one zip."""

import html
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from app.pictures import as_sentence, problem_html, thumbnail_uri
from yoso_core.batch import Limits, gathered, into_zip, run_files
from yoso_core.drawing import PictureError
from yoso_core.files.pictures import SUFFIXES
from yoso_core.requests import RequestError, TranslateRequest
from yoso_core.service import Service

LIMITS = Limits()
FILES = [*SUFFIXES, ".zip"]
SHOWN = 60  # pictures on the page; the zip holds all
TOLD = 8  # files that could not be read, by name
EVERY = 0.5  # seconds between two looks at what is there by now
AT_ONCE = 2  # batches; others are refused, because whoever waits takes a place in the queue that all share


class Shown(NamedTuple):
    """What the page keeps of a file: pictures may be large, and there may be many.

    Attributes:
        name: what its owner calls it.
        problem: why nothing was made of it; "" where something was.
        thumbnail: data URL of what was made; "" where it is not shown.
    """

    name: str
    problem: str = ""
    thumbnail: str = ""


class TranslateFiles:
    """Layout and work of a batch.

    Args:
        engine: translates.
        request: what the values of the controls ask of a picture; raises a RequestError.
    """

    def __init__(self, engine: Service, request: Callable[[dict[Any, Any], Image.Image], TranslateRequest]) -> None:
        self.engine, self.request = engine, request
        self.places = threading.BoundedSemaphore(AT_ONCE)

    def build(self) -> None:
        self.given = gr.File(
            file_count="multiple",
            file_types=FILES,
            label=f"Drop pictures or a zip of them, up to {LIMITS.files}",
            height=132,
            elem_id="translate-files",
            elem_classes="takes-files",
        )
        with gr.Row(elem_classes="under", elem_id="translate-buttons"):
            self.start = gr.Button("Translate all", variant="primary", size="sm", scale=0, min_width=130)
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=80, visible=False)
            self.download = gr.DownloadButton(
                "Download zip", size="sm", scale=0, min_width=130, visible=False, elem_id="translated-zip"
            )
            self.told = gr.HTML(elem_classes="info", elem_id="translate-told")
        self.grid = gr.HTML(elem_id="translated")

    def connect(self, asked: set[Any], private: dict[str, Any]) -> None:
        """Who listens to whom.

        Args:
            asked: the controls that say how to translate.
            private: queue rules of a listener that no program may call.
        """
        parts = [self.start, self.stop, self.download, self.told, self.grid]
        # A place of its own, so that whoever draws meanwhile waits for one picture of it and not for all.
        begun = self.start.click(
            self.translate_all,
            {*asked, self.given},
            parts,
            show_progress="hidden",
            **private | {"concurrency_id": "batch", "concurrency_limit": 4 * AT_ONCE},
        )
        self.stop.click(self.stopped, None, parts[:4], cancels=[begun], show_progress="hidden", **private)

    def translate_all(self, values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        """Translate what was dropped as the tab is set; shows what is there by now, and at last the zip."""
        if not self.places.acquire(blocking=False):
            yield {self.told: problem_html("Others translate their files right now; try again in a minute.")}
            return
        try:
            yield from self._translate_all(values)
        finally:  # also where it was stopped
            self.places.release()

    def _translate_all(self, values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        paths = [Path(path) for path in values[self.given] or []]
        folder = Path(self.download.GRADIO_CACHE) / secrets.token_hex(16)
        whole = False
        try:
            if not paths:
                raise RequestError("Drop pictures first, or a zip of them.")
            self.request(values, Image.new("RGB", (8, 8)))  # whatever is wrong with all of them
            folder.mkdir(parents=True)
            path = folder / "translated.zip"
            with gathered(paths, LIMITS) as (files, left):
                done = [Shown(one.name, one.problem) for one in left]
                yield self._running(0, len(files), done) | {self.grid: ""}
                yield from self._follow(values, path, files, done)
            whole = any(not one.problem for one in done)
            yield self._ended(done, path if whole else None)
        except (RequestError, PictureError) as error:
            yield self._idle() | {self.told: problem_html(str(error))}
        except OSError as error:
            yield self._idle() | {self.told: problem_html(f"The zip can't be written ({error.strerror}).")}
        finally:
            if not whole:
                shutil.rmtree(folder, ignore_errors=True)

    def _follow(self, values: dict[Any, Any], path: Path, files: list, done: list[Shown]) -> Iterator[dict[Any, Any]]:
        looked, count, shown = time.monotonic(), len(done) + len(files), 0
        made = run_files(self.engine.run, partial(self.request, values), files, LIMITS)
        for one in into_zip(made, path):
            shown += one.result is not None
            seen = one.result is not None and shown <= SHOWN
            done.append(Shown(one.name, one.problem, thumbnail_uri(one.result.pictures[0]) if seen else ""))
            if time.monotonic() - looked > EVERY:
                looked = time.monotonic()
                yield self._running(len(done), count, done) | {self.grid: grid_html(done)}

    def _running(self, number: int, count: int, done: list[Shown]) -> dict[Any, Any]:
        bar = f'<div class="bar"><div style="width: {100 * number / max(1, count):.0f}%"></div></div>'
        return {
            self.start: gr.Button(visible=False),
            self.stop: gr.Button(visible=True),
            self.download: gr.DownloadButton(visible=False),
            self.told: f'<p class="note">{number} of {count}</p>{bar}{problems_html(done)}',
        }

    def _idle(self) -> dict[Any, Any]:
        return {self.start: gr.Button(visible=True), self.stop: gr.Button(visible=False)}

    def _ended(self, done: list[Shown], path: Path | None) -> dict[Any, Any]:
        number = sum(not one.problem for one in done)
        words = f"{number} of {len(done)} translated." if number < len(done) else f"{number} translated."
        return self._idle() | {
            self.download: gr.DownloadButton(value=str(path) if path else None, visible=path is not None),
            self.told: f'<p class="note">{words}</p>{problems_html(done)}',
            self.grid: grid_html(done),
        }

    def stopped(self) -> tuple[Any, ...]:
        start, stop = self._idle().values()
        return start, stop, gr.DownloadButton(visible=False), '<p class="note">Stopped.</p>'


def problems_html(done: list[Shown]) -> str:
    """What could not be translated, by name and reason; of many the first."""
    problems = [one for one in done if one.problem]
    lines = [
        f'<p class="note problem">{html.escape(one.name[-80:])}: {html.escape(as_sentence(one.problem))}</p>'
        for one in problems[:TOLD]
    ]
    if len(problems) > TOLD:
        lines.append(f'<p class="note problem">And {len(problems) - TOLD} more.</p>')
    return "".join(lines)


def grid_html(done: list[Shown]) -> str:
    """The first pictures, each under its name."""
    made = [one for one in done if not one.problem]
    cells = "".join(
        f'<figure><img src="{one.thumbnail}" alt="{html.escape(one.name[-80:])}" '
        f'draggable="false"><figcaption>{html.escape(Path(one.name).name[-40:])}</figcaption></figure>'
        for one in made[:SHOWN]
    )
    more = f'<p class="quiet">And {len(made) - SHOWN} more in the zip.</p>' if len(made) > SHOWN else ""
    return f'<div class="rungs">{cells}</div>{more}'
