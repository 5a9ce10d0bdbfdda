"""Gradio's page, whose listeners answer in sentences whatever happens."""

import errno
import logging
from copy import copy
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

from app.server.visitors import VISITOR, WHO

LOG = logging.getLogger(__name__)
NOT_TAKEN = "The studio can't take these values; /gradio_api/info says what this function wants."
UNFORESEEN = "Something went wrong that the server's log tells of; please try again."
FULL = "The disk of this machine is full; make room and try again."


def sentence_of(error: BaseException) -> str:
    """What a visitor is told of an error that nobody foresaw; the rest is for the log."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return FULL if full else UNFORESEEN


def still_chosen(state: SessionState | None, block: Any, value: Any) -> Any:
    """A value that a page sent; None of a choice that the page has lost since, while the value waited its turn."""
    block = state[block._id] if state is not None and block._id in state else block
    chooses = isinstance(block, gr.Radio | gr.Dropdown)
    return None if chooses and value not in [known for _, known in block.choices] else value


class Page(gr.Blocks):
    """``gr.Blocks`` that tells every error in a sentence; Gradio would tell most as ``{"error": null}``."""

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], state: SessionState | None, *more: Any, **options: Any
    ) -> list:
        if block_fn.api_visibility == "private":  # sent by the page
            inputs = [*map(partial(still_chosen, state), block_fn.inputs, inputs)]
        try:
            return await super().preprocess_data(block_fn, inputs, state, *more, **options)
        except (gr.Error, OSError):
            raise
        except Exception as error:  # what is sent may be anything, and Gradio's checks raise a dozen types
            LOG.info("refused: %s", error)
            raise gr.Error(NOT_TAKEN, print_exception=False) from error

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list | dict, state: SessionState | None
    ) -> list[Any]:
        """Gradio would make every output anew of which a listener says nothing."""
        if not isinstance(predictions, dict) or not all(isinstance(one, gr.blocks.Block) for one in predictions):
            return await super().postprocess_data(block_fn, predictions, state)
        told = copy(block_fn)
        told.outputs = [block for block in block_fn.outputs if block in predictions]
        data = [predictions[block] for block in told.outputs]
        data = await super().postprocess_data(told, data[0] if len(data) == 1 else data, state)
        updates = dict(zip(told.outputs, data, strict=True))
        return [updates.get(block, gr.skip()) for block in block_fn.outputs]

    async def process_api(self, *given: Any, **options: Any) -> dict[str, Any]:
        asked = getattr(options.get("request"), "request", None)
        VISITOR.set(asked.scope.get(WHO, "") if asked else "")  # the queue answers in a task of its own
        try:
            return await super().process_api(*given, **options)
        except gr.Error:
            raise
        except Exception as error:
            LOG.exception("unforeseen while answering")
            raise gr.Error(sentence_of(error), print_exception=False) from error
