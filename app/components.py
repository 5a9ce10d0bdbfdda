"""The page's own components: a template and a script each, in ``scripts/``, that Gradio feeds with values.

The canvas is shared with the page that needs no server.
"""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from yoso_core.web.export import SHARED

ROOMS = (Path(__file__).with_name("scripts"), SHARED)


def sent_along(event: gr.EventData) -> dict[str, Any]:
    """What a component's script sent with its event; {} where it sent something else."""
    values = getattr(event, "_data", None)
    return values if isinstance(values, dict) else {}


def is_of(control: Any, value: Any) -> bool:
    """Whether a value is of the kind that a control has, as JSON holds it, or none; what it says is not looked at."""
    match control:
        case _ if value is None:
            return True
        case gr.Checkbox():
            return isinstance(value, bool)
        case gr.HTML():
            return isinstance(value, dict)
        case gr.Radio() | gr.Dropdown() if not any(is_number(choice) for _, choice in control.choices):
            return isinstance(value, str)
        case gr.Radio() | gr.Dropdown() | gr.Slider() | gr.Number():
            return is_number(value)
        case _:
            return isinstance(value, str)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def script(name: str) -> str:
    """What ``scripts/NAME.js`` does once a component of the page is there."""
    return _read(f"{name}.js")


def _read(file: str) -> str:
    return next(room / file for room in ROOMS if (room / file).is_file()).read_text("utf-8")


def component(name: str, value: Any = None, fixed: dict[str, Any] | None = None, **options: Any) -> gr.HTML:
    """A component from ``scripts/NAME.html`` and ``scripts/NAME.js``.

    Args:
        name: of both files.
        value: what it begins with; the script reads and sets ``props.value``.
        fixed: constants of the script. Gradio loses what is in ``props`` beside the value, where a listener that could
            set the component does not, before it has been shown.
        options: ``elem_id``, and what else the script reads from ``props``.
    """
    return gr.HTML(
        value,
        html_template=_read(f"{name}.html"),
        js_on_load="".join(f"const {key} = {json.dumps(each)};\n" for key, each in (fixed or {}).items())
        + script(name),
        apply_default_css=False,
        **options,
    )
