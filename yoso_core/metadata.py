"""What is written into a PNG so that its picture can be made again.

Two text chunks: ``parameters``, the line format that other tools of the field read, and ``yoso``, our request as JSON.
"""

import dataclasses
import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from yoso_core.engine import Result
from yoso_core.requests import GenerateRequest, LoraUse, RequestError


def request_of(result: Result, index: int) -> GenerateRequest:
    """The request that makes picture number `index` of a result alone."""
    return dataclasses.replace(result.request, seed=result.seeds[index], count=1)


def parameters_text(result: Result, index: int) -> str:
    """The ``parameters`` text: prompt, negative prompt, then the settings."""
    request, picture = result.request, result.pictures[index]
    loras = "".join(f" <lora:{use.name}:{use.weight:g}>" for use in request.loras)
    settings = {
        "Steps": request.steps,
        "Sampler": "LCM",
        "CFG scale": f"{request.guidance:g}",
        "Seed": result.seeds[index],
        "Size": f"{picture.width}x{picture.height}",
        "Model": request.model,
    }
    lines = [request.prompt + loras]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def png_info(result: Result, index: int) -> PngInfo:
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(result, index))
    info.add_itxt("yoso", json.dumps(dataclasses.asdict(request_of(result, index)), ensure_ascii=False))
    return info


def save_png(result: Result, index: int, path: Path) -> None:
    """Write one picture of a result with its metadata."""
    result.pictures[index].save(path, "PNG", pnginfo=png_info(result, index))


def read_request(picture: Image.Image) -> GenerateRequest:
    """The request that a PNG of ours was made from.

    Raises:
        RequestError: the picture carries none, or one that is not valid.
    """
    text = getattr(picture, "text", {}).get("yoso")
    if text is None:
        raise RequestError("This picture has no settings of YOSO Studio in it; please choose a PNG saved here.")
    try:
        values = json.loads(text)
        values["loras"] = tuple(LoraUse(**use) for use in values.get("loras", ()))
        return GenerateRequest(**values)
    except RequestError:
        raise
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise RequestError(f"The settings in this picture can't be read ({error!s:.80}).") from None
