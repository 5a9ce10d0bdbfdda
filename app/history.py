"""What was made before: kept by the browser, brought back from it, from a saved PNG or from a link."""

import base64
import io
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.components import component, sent_along
from app.lora_picker import LoraPicker
from app.pictures import DATA_LIMIT, download_file, on_saved, plain, run
from app.server.queueing import DRAWING
from app.settings import ENLARGEMENTS
from yoso_core.drawing import Result
from yoso_core.files.links import link_text
from yoso_core.files.metadata import Restored, from_json, read_request, request_of, to_json
from yoso_core.requests import GenerateRequest, RequestError
from yoso_core.service import Service

DOWNLOADS = 60  # pictures in one zip
EVALUATIONS = 8 * DOWNLOADS  # of the network, for one zip
ON_COPIED = "link => { window.yosoLink(link); }"
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

    def __init__(self, engine: Service) -> None:
        self.engine = engine

    def build(self) -> None:
        self.strip = component("history", most=DOWNLOADS, elem_id="history")
        self.download = gr.DownloadButton(visible="hidden", elem_id="download")
        self.link = gr.JSON(visible="hidden")  # the text of a link, and what it does not hold

    def entry(self, result: Result, stage: str) -> dict[str, Any]:
        """What the strip keeps of the pictures of a result; `stage` is the element that shows them."""
        return {"entry": to_json(request_of(result, 0)), "seeds": result.seeds, "shows": f"#{stage}"}

    def connect(
        self,
        upload: gr.UploadButton,
        asked: set[Any],
        picker: LoraPicker,
        enlarge: Any,
        restored: Callable[[Restored, dict[Any, Any]], dict[Any, Any]],
        outputs: list[Any],
        private: dict[str, Any],
    ) -> None:
        """Listen to the strip and to the button that opens a PNG.

        Args:
            upload: the button.
            asked: the controls whose values `restored` has to know.
            picker: knows the LoRAs that a file may name.
            enlarge: says how many times as large pictures are saved.
            restored: what to set the page to.
            outputs: the components that it sets.
            private: queue rules of a listener that no program may call.
        """

        def restore(read: Callable[[], Restored], values: dict[Any, Any]) -> dict[Any, Any]:
            try:
                return restored(read(), values)
            except RequestError as error:
                raise gr.Error(plain(str(error)), print_exception=False) from None

        def known(values: dict[Any, Any]) -> list[str]:
            return [*picker.shared, *values[picker.own]]

        def from_strip(values: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            return restore(lambda: Restored(from_json(_sent(event, "request"))), values)

        def from_drop(values: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            try:
                file = _sent(event, "file")
                return restored(read_png(_dropped(file), known(values)), values)
            except RequestError as error:  # a picture is of use without its settings, too
                return {self.strip: {"offer": str(error)}}

        def from_file(values: dict[Any, Any]) -> dict[Any, Any]:
            return restore(lambda: read_png(values[upload], known(values)), values)

        # Not on all they set: the page goes over these whenever any listener gets on.
        options = private | {"show_progress": "hidden", "show_progress_on": self.link}
        self.strip.select(from_strip, asked, outputs, **options)
        self.strip.upload(from_drop, asked, [*outputs, self.strip], **options)
        upload.upload(from_file, {*asked, upload}, outputs, **options)
        self.strip.download(self.save_entries, enlarge, self.download, **options | DRAWING).success(None, js=ON_SAVED)
        self.strip.copy(self.make_link, None, self.link, **options).success(None, self.link, js=ON_COPIED)

    def save(self, request: GenerateRequest | None, times: Any = 1) -> str:
        """Make pictures once more from their request, which a session remembers in place of their pixels."""
        if request is None:
            raise gr.Error("There is no picture to save yet.", print_exception=False)
        return download_file([run(self.engine, request)], self.download.GRADIO_CACHE, _times(times))

    def save_entries(self, times: Any, event: gr.EventData) -> str:
        """One PNG, or a zip of all."""
        try:
            sent = _sent(event, "requests")
            if not isinstance(sent, list) or not 1 <= len(sent) <= DOWNLOADS:
                raise RequestError(f"From 1 to {DOWNLOADS} pictures can be saved at once.")
            requests = [replace(from_json(values), count=1) for values in sent]
            if sum(request.steps * (1 + ((request.guidance or 1) > 1)) for request in requests) > EVALUATIONS:
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
        return download_file(results, self.download.GRADIO_CACHE, _times(times))

    def make_link(self, event: gr.EventData) -> dict[str, Any]:
        """The text of a link, and what stays behind."""
        try:
            link = link_text(from_json(_sent(event, "request")))
        except RequestError as error:
            raise gr.Error(plain(str(error)), print_exception=False) from None
        return {"link": link.text, "without": list(link.without)}


def _times(value: Any) -> int:
    return value if value in dict(ENLARGEMENTS).values() else 1


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
