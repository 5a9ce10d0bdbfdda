"""ControlNets, and the annotators that make their maps of pictures.

A map is RGB, white on black for edges, of the size and shape of the picture that is to be made.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from yoso_core.checkpoints import ModelError, Source, load_part, refuse_missing_weights, refuse_other_files
from yoso_core.condition import Condition
from yoso_core.loading import LoadedModel
from yoso_core.models import HUB_MODEL, MODELS_FOLDER
from yoso_core.needs import local_source
from yoso_core.requests import ControlUse, RequestError

ANNOTATORS_FOLDER = MODELS_FOLDER / "annotators"  # git-ignored; where weights of annotators are looked for first
ANNOTATORS_HUB = "lllyasviel/Annotators"
INK = 48  # levels by which a pixel of a drawing differs from its paper
FILLED = 20  # parts of the shorter side: ink that reaches farther than one to all sides is no stroke but a filled shape
RIM = 32  # parts of it: width of the line that is left of a filled shape, as of the scribbles that ControlNets learn
DETECTOR_SIDE = 512  # pixels of the shorter side that the detectors were made for
DETECTOR_UNIT = 64  # of which they make sides a multiple
DETECTOR_LONGEST = 4  # times `DETECTOR_SIDE`; of longer pictures the shorter side is smaller


@dataclass(frozen=True)
class Annotator:
    """How a map is made of a picture.

    Attributes:
        title: what people read.
        detector: module and class in controlnet_aux; "" where none is needed.
        files: weights that it needs, as the hub repository names them.
    """

    title: str
    detector: str = ""
    files: tuple[str, ...] = ()


ANNOTATORS: dict[str, Annotator] = {
    "canny": Annotator("Edges (Canny)"),
    "scribble": Annotator("Scribble"),
    "map": Annotator("Ready-made map"),
    "lineart": Annotator("Line art", "lineart.LineartDetector", ("sk_model.pth", "sk_model2.pth")),
    "softedge": Annotator("Soft edges (HED)", "hed.HEDdetector", ("ControlNetHED.pth",)),
    "depth": Annotator("Depth (MiDaS)", "midas.MidasDetector", ("dpt_hybrid-midas-501f0c75.pt",)),
    "normal": Annotator("Normals", "normalbae.NormalBaeDetector", ("scannet.pt",)),
    "pose": Annotator(
        "Pose (OpenPose)",
        "open_pose.OpenposeDetector",
        ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"),
    ),
}


def missing_weights(name: str) -> str | None:
    """Why an annotator can't be used here and what to do about it, in a sentence; None if it can."""
    lacking = [file for file in ANNOTATORS[name].files if not _weights_file(file)]
    if not lacking:
        return None
    return (
        f"{ANNOTATORS[name].title} needs {' and '.join(lacking)}: put it into models/annotators "
        f"(hf download {ANNOTATORS_HUB} {' '.join(lacking)} --local-dir models/annotators)."
    )


def _weights_file(file: str) -> Path | None:
    """Where the weights are on this machine: in our folder, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if (ANNOTATORS_FOLDER / file).is_file():
        return ANNOTATORS_FOLDER / file
    cached = try_to_load_from_cache(ANNOTATORS_HUB, file)
    return Path(cached) if isinstance(cached, str) else None


class Annotations:
    """Makes maps; a detector is imported and loaded when it is first needed, and kept."""

    def __init__(self) -> None:
        self._detectors: dict[str, Callable[..., Image.Image]] = {}

    def __call__(
        self,
        picture: Image.Image,
        use: ControlUse,
        report: Callable[[str], None] = lambda message: None,
    ) -> Image.Image:
        """The map of an RGB picture that is of the size and shape to make.

        Raises:
            RequestError: an unknown annotator, or one whose weights are not here.
        """
        if use.annotator not in ANNOTATORS:
            raise RequestError(f"There is no annotator {use.annotator!r:.60}; choose one of {', '.join(ANNOTATORS)}.")
        annotator = ANNOTATORS[use.annotator]
        if use.annotator == "map":
            return picture
        if use.annotator == "canny":
            return edge_map(picture, use.low, use.high)
        if use.annotator == "scribble":
            return scribble_map(picture)
        if use.annotator not in self._detectors:
            if problem := missing_weights(use.annotator):
                raise RequestError(problem)
            report(f"Loading {annotator.title}")
            self._detectors[use.annotator] = _load_detector(annotator)
        return detected_map(self._detectors[use.annotator], picture)


def _load_detector(annotator: Annotator) -> Callable[..., Image.Image]:
    module, kind = annotator.detector.split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package registers models twice and says so
        detector = getattr(importlib.import_module(f"controlnet_aux.{module}"), kind)
    if not annotator.files:
        return detector()
    folder = _weights_file(annotator.files[0]).parent
    try:
        # Pickles, but torch.load reads them weights-only, which runs nothing.
        return detector.from_pretrained(str(folder), local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever is wrong with a file that somebody else wrote
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise RequestError(f"The weights of {annotator.title} in {folder} can't be read ({cause}).") from None


def edge_map(picture: Image.Image, low: int, high: int) -> Image.Image:
    """The edges of an RGB picture, 255 on 0, by OpenCV's Canny at its very size; thresholds as of `ControlUse`."""
    edges = cv2.Canny(np.asarray(picture), low, high)
    return Image.fromarray(edges).convert("RGB")


def detected_map(detector: Callable[..., Image.Image], picture: Image.Image) -> Image.Image:
    """What a detector of controlnet_aux finds in an RGB picture, in its size.

    The detectors stretch both what they look at and what they find to sides that they like. They are given such sides,
    so that the map is resized once, by us, and to the shape that the picture has.
    """
    looked_at = picture.resize(detector_size(picture.size), Image.Resampling.LANCZOS)
    side = min(looked_at.size)
    found = detector(looked_at, detect_resolution=side, image_resolution=side, output_type="pil")
    return found.convert("RGB").resize(picture.size, Image.Resampling.BILINEAR)


def detector_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height in which a detector looks at a picture of this size: its shape, as nearly as they allow."""
    scale = min(DETECTOR_SIDE / min(size), DETECTOR_LONGEST * DETECTOR_SIDE / max(size))
    width, height = (max(1, round(side * scale / DETECTOR_UNIT)) * DETECTOR_UNIT for side in size)
    return width, height


def scribble_map(picture: Image.Image) -> Image.Image:
    """A drawing on plain paper as white lines on black: what differs from the commonest colour is ink.

    Strokes stay as they are. Of a filled shape its outline is left, and the edges of what is drawn on it.
    """
    pixels = np.asarray(picture).astype(np.int16)
    colours, counts = np.unique(pixels.reshape(-1, 3) // 8, axis=0, return_counts=True)
    paper = colours[counts.argmax()] * 8 + 4
    ink = np.where(np.abs(pixels - paper).max(axis=2) > INK, 255, 0).astype(np.uint8)
    reach, rim = min(picture.size) // FILLED, max(2, min(picture.size) // RIM)
    # What holds a square of this size, and without its rim; beyond the border of the picture a shape goes on.
    filled = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((2 * reach + 1,) * 2, np.uint8))
    inside = cv2.erode(filled, np.ones((2 * rim + 1,) * 2, np.uint8))
    if inside.any():
        low, high = ControlUse.low, ControlUse.high
        ink = np.where(inside, cv2.Canny(np.asarray(picture), low, high), ink)
    return Image.fromarray(ink).convert("RGB")


@dataclass(frozen=True)
class ControlSpec:
    """A ControlNet that can be asked for.

    Attributes:
        title: what people read.
        source: where its diffusers folder is.
        licence: of its weights.
        family: of the models that it fits, see `ModelSpec`.
        annotators: whose maps it was trained on, the best first.
        variant: the file variant to fetch from a hub.
    """

    title: str
    source: Source
    licence: str
    family: str
    annotators: tuple[str, ...]
    variant: str | None = None


def _published(title: str, place: str, revision: str, *annotators: str) -> ControlSpec:
    """One of those that were trained with Stable Diffusion 1.5."""
    source = Source(f"lllyasviel/{place}", revision)
    return ControlSpec(title, source, "openrail", "sd15", (*annotators, "map"), "fp16")


CONTROLS: dict[str, ControlSpec] = {
    "emoji": ControlSpec(
        "Edges and scribbles (bundled)",
        Source(str(MODELS_FOLDER / "controlnet-emoji")),
        "apache-2.0",
        "yoso-emoji",
        ("canny", "scribble", "map", "lineart", "softedge"),
    ),
    "sd15-canny": _published(
        "Edges 1.1", "control_v11p_sd15_canny", "115a470d547982438f70198e353a921996e2e819", "canny", "scribble"
    ),
    "sd15-lineart": _published(
        "Line art 1.1", "control_v11p_sd15_lineart", "8a158f547e031c5b8fbca19ead09a74767ff4db0", "lineart"
    ),
    "sd15-softedge": _published(
        "Soft edges 1.1", "control_v11p_sd15_softedge", "b5bcad0c48e9b12f091968cf5eadbb89402d6bc9", "softedge"
    ),
    "sd15-depth": _published(
        "Depth 1.1", "control_v11f1p_sd15_depth", "539f99181d33db39cf1af2e517cd8056785f0a87", "depth"
    ),
    "sd15-normal": _published(
        "Normals 1.1", "control_v11p_sd15_normalbae", "cb7296e6587a219068e9d65864e38729cd862aa8", "normal"
    ),
    "sd15-pose": _published(
        "Pose 1.1", "control_v11p_sd15_openpose", "9ae9f970358db89e211b87c915f9535c6686d5ba", "pose"
    ),
    "sdxl-canny": ControlSpec(
        "Edges XL",
        Source("diffusers/controlnet-canny-sdxl-1.0", "eb115a19a10d14909256db740ed109532ab1483c"),
        "openrail++",
        "sdxl",
        ("canny", "scribble", "map"),
        "fp16",
    ),
    "sdxl-depth": ControlSpec(
        "Depth XL",
        Source("diffusers/controlnet-depth-sdxl-1.0", "17bb97973f29801224cd66f192c5ffacf82648b4"),
        "openrail++",
        "sdxl",
        ("depth", "map"),
        "fp16",
    ),
    "sdxl-pose": ControlSpec(
        "Pose XL",
        Source("xinsir/controlnet-openpose-sdxl-1.0", "23f966cd5cfdd3f7729c903e243d87152162d2b7"),
        "apache-2.0",
        "sdxl",
        ("pose", "map"),
    ),
}


def find_control(name: str, family: str) -> ControlSpec:
    """The spec of a known ControlNet, a diffusers folder on this machine, or ``OWNER/NAME@COMMIT`` on a hub.

    Args:
        family: of the model that it is to guide, for those that are not known.

    Raises:
        ModelError: none of these.
    """
    if name in CONTROLS:
        return CONTROLS[name]
    annotators = tuple(ANNOTATORS)
    if HUB_MODEL.fullmatch(name):
        place, revision = name.split("@")
        return ControlSpec(place, Source(place, revision), "see its page", family, annotators)
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have
        if (folder := Path(name).expanduser()).is_dir():
            return ControlSpec(folder.name, Source(str(folder)), "see its card", family, annotators)
    raise ModelError(
        f"There is no ControlNet {name!r:.80}: name a folder, OWNER/NAME@COMMIT, or one of {', '.join(CONTROLS)}."
    )


def choose_control(controls: Mapping[str, ControlSpec], use: ControlUse, family: str) -> str:
    """The ControlNet that a request means.

    Raises:
        RequestError: there is none that fits.
    """
    if use.network is not None:
        if use.network not in controls:
            raise RequestError(f"There is no ControlNet {use.network!r:.60}; choose one of {', '.join(controls)}.")
        return use.network
    for name, spec in controls.items():
        if spec.family == family and use.annotator in spec.annotators:
            return name
    raise RequestError(f"No ControlNet for {use.annotator!r:.40} fits this model; choose another annotator or model.")


def load_control(spec: ControlSpec, model: LoadedModel, report: Callable[[str], None] = lambda message: None):
    """Load a ControlNet for a model, to where its networks rest and to its precision.

    Raises:
        ModelError: a sentence that says what is missing, broken or of another family.
    """
    from diffusers import ControlNetModel

    report(f"Loading the ControlNet {spec.title}")
    title = f"The ControlNet {spec.title}"
    source = local_source(title, spec.source, spec.variant)
    refuse_other_files(title, Path(source.place))
    network = load_part(ControlNetModel.from_pretrained, title, source, torch_dtype=model.dtype, variant=spec.variant)
    refuse_missing_weights(title, network)
    model.family.check_control(title, network, model)
    network.requires_grad_(False).eval()
    return network.to(model.rests, memory_format=torch.channels_last)


def map_tensor(picture: Image.Image) -> Tensor:
    """A map as a ControlNet takes it: (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


@dataclass(frozen=True)
class Guide:
    """A ControlNet with its map, as a `Control`.

    Attributes:
        follow: what it adds at strength 1, see `Family.follow`.
        map: (1 or B, 3, H, W) in [0, 1].
        last: the noisiest timestep, T - 1.
        strength: what it adds is scaled by it.
        start, end: part of the way from noise (0) to the picture (1) on which it acts.
    """

    follow: Callable[[Tensor, Tensor, Condition, Tensor], Sequence[Tensor]]
    map: Tensor
    last: int
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition) -> Sequence[Tensor]:
        way = 1 - t[0].item() / self.last  # all samples of a batch are at one timestep where it matters
        if not self.strength or not self.start <= way <= self.end:
            return ()
        given = self.map.to(noisy.dtype).expand(len(noisy), -1, -1, -1)
        return [each * self.strength for each in self.follow(noisy, t, condition, given)]
