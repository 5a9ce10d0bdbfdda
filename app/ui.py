"""The page: theme, queue rules and tabs."""

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from app.compare_tab import CompareTab
from app.desk import Desk, head
from app.drawing import Drawing
from app.edit_tab import EditTab
from app.endpoints import build_endpoints
from app.generate_tab import GenerateTab
from app.history import History
from app.lora_picker import LoraPicker
from app.models_tab import ModelsTab
from app.server.doors import Limits
from app.server.hosts import Hosts, hosts_at
from app.server.lent_training import LentTraining
from app.server.page import Page
from app.server.queueing import DRAWING, Queue
from app.server.studio import StudioApp, slow_ones_dropped
from app.server.uploads import Uploads
from app.settings import Settings
from app.train_mode import MODES
from app.train_tab import TrainTab
from app.translate_tab import TranslateTab
from yoso_core.lora.library import LoraEntry
from yoso_core.requests import RequestError
from yoso_core.service import Service
from yoso_core.shelf import Shelf
from yoso_core.web.export import SHARED

TAGLINE = "One prompt, one network evaluation, one picture."
CACHE_SECONDS = 3600
DOWNLOADS = Path("loras")  # git-ignored; where LoRAs of a hub are kept
RUNS = Path("runs")  # git-ignored; where training runs are
# One id for all that answers at once, because Gradio's limits are per listener otherwise; what draws has seats.
LISTENING: dict[str, Any] = {"concurrency_id": "page", "concurrency_limit": 1}
LOCAL, USUAL = hosts_at("127.0.0.1"), Limits()
FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

HEADER = f"""
<header>
  <h1>YOSO <span>Studio</span></h1>
  <p>{TAGLINE}</p>
</header>
"""


def build_theme() -> gr.themes.Base:
    """Paper and ink with one warm colour; fonts of the system, so that nothing is fetched."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=FONT,
        font_mono=MONO,
    )
    return theme.set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#171513",
        body_text_color="#1c1917",
        body_text_color_subdued="#6f675f",
        body_text_color_subdued_dark="#a39a90",
        block_info_text_color="#6f675f",
        block_info_text_color_dark="#a39a90",
        input_placeholder_color="#736b63",
        input_placeholder_color_dark="#a39a90",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#211e1c",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_title_text_color="*body_text_color",
        block_padding="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#262320",
        input_border_width="1px",
        input_border_color="#dcd7d0",
        input_border_color_dark="#3a3531",
        input_border_color_focus="#1c1917",
        input_border_color_focus_dark="#f5b81f",
        button_primary_background_fill="#ffc42e",
        button_primary_background_fill_hover="#ffb600",
        button_primary_background_fill_dark="#ffc42e",
        button_primary_background_fill_hover_dark="#ffd566",
        button_primary_text_color="#1c1917",
        button_primary_text_color_dark="#1c1917",
        button_secondary_background_fill="#f0ede8",
        button_secondary_background_fill_hover="#e6e1da",
        button_secondary_background_fill_dark="#2c2825",
        button_secondary_background_fill_hover_dark="#3a3531",
        slider_color="#f0a800",
        checkbox_background_color_selected="#1c1917",
        checkbox_background_color_selected_dark="#ffc42e",
    )


def launch_options(
    mcp: bool = False,
    mode: str = "off",
    hosts: Hosts = LOCAL,
    limits: Limits = USUAL,
    behind_proxy: bool = False,
) -> dict[str, Any]:
    """What ``launch`` needs beside an address.

    Args:
        mcp: offer the public endpoints as tools of the Model Context Protocol too.
        mode: who may train what, on which hangs how much is taken: a key of `MODES`.
        hosts: the names that the studio answers to.
        limits: of a request.
        behind_proxy: whether all visitors come through one proxy that says who they are.

    Raises:
        RequestError: the package for that is not installed.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise RequestError('Tools for language models need one more package: pip install "gradio[mcp]==6.31.0".')
    allowed = MODES[mode]
    uploads = Uploads(Path(get_upload_folder()), allowed.uploads, allowed.uploads_in_all, 2 * CACHE_SECONDS)
    return {
        "_app": StudioApp(hosts, uploads, limits, behind_proxy),
        "app_kwargs": {"lifespan": partial(slow_ones_dropped, silence=limits.silence)},
        "enable_monitoring": False,
        "ssr_mode": False,  # Gradio's other servers would stand in front of the doors
        "num_workers": 0,
        "mcp_server": mcp,
        "theme": build_theme(),
        "head": head(),
        "css_paths": [SHARED / "look.css", Path(__file__).with_name("studio.css")],
        "max_file_size": allowed.upload,
        "run_history": False,  # prompts stay out of the server's files
        "footer_links": ["api"],
    }


def build_app(
    engine: Service,
    loras: Sequence[LoraEntry] = (),
    downloads: Path = DOWNLOADS,
    runs: Path = RUNS,
    mode: str = "off",
    shelf: bool | None = None,
    lent: LentTraining | None = None,
) -> gr.Blocks:
    """The studio on top of an engine. Call ``launch(**launch_options())`` on it.

    Args:
        engine: answers the requests.
        loras: what everybody finds in the list of LoRAs.
        downloads: folder for LoRAs from a hub.
        runs: folder of training runs.
        mode: who may train what: a key of `MODES`.
        shelf: whether visitors may fetch, add and remove models; None as of the mode.
    """
    settings = Settings(engine, LoraPicker(engine, loras, downloads))
    drawing_tabs = [GenerateTab(settings), EditTab(engine, settings), TranslateTab(engine, settings)]
    history, compare = History(engine), CompareTab(engine, settings, drawing_tabs)
    train = TrainTab(engine, settings, runs, MODES[mode], lent)
    may = MODES[mode].shelf if shelf is None else shelf
    engine.fetches.allowed = may
    models = ModelsTab(Shelf(engine, shared=MODES[mode].private), settings, may)
    with Page(
        title="YOSO Studio", analytics_enabled=False, fill_width=True, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)
    ) as demo:
        gr.HTML(HEADER, elem_id="header")
        settings.build_prompt()
        with gr.Row(elem_id="work"):
            with gr.Column(scale=5, min_width=320, elem_id="main"):
                with gr.Tabs(elem_id="tabs") as tabs:
                    for tab in (*drawing_tabs, compare, train, models):
                        with gr.Tab(tab.name.capitalize(), id=tab.name, elem_id=f"{tab.name}-tab") as opened:
                            tab.build()
                        opened.select(None, js=f"() => {{ document.body.dataset.tab = '{tab.name}'; }}")
                history.build()
            with gr.Column(scale=2, min_width=280, elem_id="settings"):
                settings.build_panel()
        private = LISTENING | {"api_visibility": "private"}
        others = [compare.name, train.name, models.name]
        drawing = Drawing(engine, settings, drawing_tabs, history, others, engine.rest)
        drawing.connect(tabs, private, models.list, models.at)
        compare.connect(private)
        desk = Desk(engine, settings, drawing, {compare.name: (compare, compare.kept)}, train.recall)
        opened = desk.connect(demo.load, private)
        settings.show_styles(opened.then, private)
        train.connect(drawing, opened.then, private)
        models.connect(drawing, demo.load, private)
        build_endpoints(engine, settings.picker, demo.GRADIO_CACHE, DRAWING)
    demo.queue(api_open=False)
    demo._queue = Queue(demo, MODES[mode].queue_share, engine.places)
    return demo
