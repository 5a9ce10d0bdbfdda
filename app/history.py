"""What was made before: kept by the browser, brought back from it, from a saved PNG or from a link."""

import base64
import io
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.components import component, sent_along
from app.pictures import DATA_LIMIT, download_file, on_saved, plain, run
from yoso_core.engine import Engine, Result
from yoso_core.files.metadata import Restored, from_json, from_link, link_text, read_request, request_of, to_json
from yoso_core.requests import GenerateRequest, RequestError

DOWNLOADS = 60  # pictures in one zip
EVALUATIONS = 8 * DOWNLOADS  # of the network, for one zip
ON_COPIED = "link => { navigator.clipboard?.writeText(`${location.origin}${location.pathname}?s=${link}`); }"
ON_SAVED = on_saved("download")


def read_png(path: str | Path | io.BytesIO, loras: Collection[str] = ()) -> Restored:
    """The settings inside a picture that was saved here or by another program of the field.

    Args:
        path: of the file, or its bytes.
        loras: those that may be taken over from another program, as `read_request` has them.

    Raises:
        RequestError: it holds none.
    """
    return read_request(Path(path) if isinstance(path, str) else path, loras=loras)


class History:
    """The strip of thumbnails under the tabs.

    Args:
        engine: makes pictures once more to save them; the strip holds only their settings.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def build(self) -> None:
        self.strip = component("history", elem_id="history")
        self.download = gr.DownloadButton(visible="hidden", elem_id="download")
        self.link = gr.Textbox(visible="hidden")

    def entry(self, result: Result, stage: str) -> dict[str, Any]:
        """What the strip keeps of the first picture of a result; `stage` is the element that shows it."""
        return {"entry": to_json(request_of(result, 0)), "shows": f"#{stage}"}

    def connect(
        self,
        upload: gr.UploadButton,
        order: Any,
        own: Any,
        shared: Collection[str],
        restored: Callable[[Restored, list[str], int], dict[Any, Any]],
        outputs: list[Any],
        private: dict[str, Any],
    ) -> None:
        """Listen to the strip and to the button that opens a PNG.

        Args:
            upload: the button.
            order: counts the wishes for a picture.
            own: ids of the LoRAs that the session added.
            shared: ids of those that everybody sees.
            restored: what to set the page to.
            outputs: the components that it sets.
            private: queue rules of a listener that no program may call.
        """

        def restore(read: Callable[[], Restored], own: list[str], order: int) -> dict[Any, Any]:
            try:
                return restored(read(), own, order)
            except RequestError as error:
                raise gr.Error(plain(str(error)), print_exception=False) from None

        def from_strip(own: list[str], order: int, event: gr.EventData) -> dict[Any, Any]:
            return restore(lambda: Restored(from_json(_sent(event, "request"))), own, order)

        def from_page(own: list[str], order: int, event: gr.EventData) -> dict[Any, Any]:
            return restore(lambda: from_link(_sent(event, "link")), own, order)

        def from_drop(own: list[str], order: int, event: gr.EventData) -> dict[Any, Any]:
            return restore(lambda: read_png(_dropped(_sent(event, "file")), [*shared, *own]), own, order)

        def from_file(path: str, own: list[str], order: int) -> dict[Any, Any]:
            return restore(lambda: read_png(path, [*shared, *own]), own, order)

        options = private | {"show_progress": "hidden"}
        self.strip.select(from_strip, [own, order], outputs, **options)
        self.strip.input(from_page, [own, order], outputs, **options)
        self.strip.upload(from_drop, [own, order], outputs, **options)
        upload.upload(from_file, [upload, own, order], outputs, **options)
        self.strip.download(self.save_entries, None, self.download, **options).success(None, js=ON_SAVED)
        self.strip.copy(self.make_link, None, self.link, **options).success(None, self.link, js=ON_COPIED)

    def save(self, request: GenerateRequest | None) -> str:
        """Make pictures once more from their request, which a session remembers in place of their pixels."""
        if request is None:
            raise gr.Error("There is no picture to save yet.", print_exception=False)
        return download_file([run(self.engine, request)], self.download.GRADIO_CACHE)

    def save_entries(self, event: gr.EventData) -> str:
        """One PNG, or a zip of all."""
        try:
            sent = _sent(event, "requests")
            if not isinstance(sent, list) or not 1 <= len(sent) <= DOWNLOADS:
                raise RequestError(f"From 1 to {DOWNLOADS} pictures can be saved at once.")
            requests = [replace(from_json(values), count=1) for values in sent]
            if sum(request.steps * (1 + (request.guidance > 1)) for request in requests) > EVALUATIONS:
                raise RequestError("These pictures take too long to make again at once; please save fewer.")
        except RequestError as error:
            raise gr.Error(plain(str(error)), print_exception=False) from None
        results = []
        for request in requests:
            try:
                results.append(run(self.engine, request))
            except gr.Error as error:  # such as for a LoRA that is gone; the others are wanted all the same
                gr.Warning(error.message)
        if not results:
            raise gr.Error("None of these pictures can be made here any more.", print_exception=False)
        return download_file(results, self.download.GRADIO_CACHE)

    def make_link(self, event: gr.EventData) -> str:
        try:
            text = link_text(from_json(_sent(event, "request")))
        except RequestError as error:
            raise gr.Error(plain(str(error)), print_exception=False) from None
        gr.Info("The link is on the clipboard.")
        return text


def _sent(event: gr.EventData, name: str) -> Any:
    """What a script of the page sent along.

    Raises:
        RequestError: it did not.
    """
    if name not in (values := sent_along(event)):
        raise RequestError("The page sent nothing that can be used; please reload it.")
    return values[name]


def _dropped(value: Any) -> io.BytesIO:
    if not isinstance(value, str) or not value.startswith("data:image/") or len(value) > DATA_LIMIT:
        raise RequestError("This file can't be read as a picture; please choose another.")
    try:
        return io.BytesIO(base64.b64decode(value.split(",", 1)[1], validate=True))
    except ValueError:
        raise RequestError("This file is damaged; please choose another.") from None
