"""How files name what a LoRA changes: keys of any spelling to places in a network.

A key is a stem, which names a module, and a role, which says what its tensor is. Stems are looked up, not rewritten:
each module of the network is spelt in every way that programs are known to spell it, dots as underscores, and what a
file calls it is one of these or has no place.

=========================================  =============================================================
written by                                 key
=========================================  =============================================================
diffusers                                  ``unet.<module>.lora_A.weight``
peft                                       ``base_model.model.<module>.lora_A.<adapter>.weight``
diffusers before peft                      ``unet.<attention>.processor.to_q_lora.down.weight``
the same, text encoder                     ``text_encoder.<module>.lora_linear_layer.down.weight``
sd-scripts, most trainers                  ``lora_unet_<module>.lora_down.weight``, ``lora_te_``, ``.alpha``
the same, for SDXL                         ``lora_unet_input_blocks_<n>_<n>_...``, ``lora_te1_``, ``lora_te2_``
LyCORIS                                    ``lora_unet_<module>.hada_w1_a``, ``lycoris_<module>.lokr_w1``
=========================================  =============================================================
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Module = tuple[str, str]  # part of the pipeline, module name

PREFIXES = {  # of a stem whose dots are underscores, by the part that it speaks of
    "text_encoder_2": ("text_encoder_2_", "lora_te2_", "lycoris_te2_", "clip_g_", "text_encoders_clip_g_transformer_"),
    "text_encoder": (
        "text_encoder_",
        "lora_te_",
        "lora_te1_",
        "lycoris_te_",
        "lycoris_te1_",
        "clip_l_",
        "text_encoders_clip_l_transformer_",
    ),
    "unet": ("unet_", "lora_unet_", "lycoris_unet_", "lycoris_", "diffusion_model_", "model_diffusion_model_"),
    "transformer": ("transformer_", "lora_transformer_", "lycoris_transformer_"),
    "vae": ("vae_",),  # of translators alone
}
PEFT = "base_model_model_"  # before or behind any of these, or alone
WRAPPERS = {"_orig_mod", "module"}  # of a compiled or a distributed network, anywhere

ROLES = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_linear_layer.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
    "lora_linear_layer.up": "up",
    "lora_mid": "mid",
    "dora_scale": "dora_scale",  # of each output or each input
    "lora_magnitude_vector": "magnitude",  # of each output, as peft has it
    "alpha": "alpha",
    "diff": "difference",
    "diff_b": "bias_difference",
    "w_norm": "difference",
    "b_norm": "bias_difference",
    **{f"hada_{name}": f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
KEY = re.compile(
    r"(?P<stem>.+?)(?:\.|_(?=lora\.))"
    rf"(?P<role>{'|'.join(map(re.escape, sorted(ROLES, key=len, reverse=True)))})"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<kind>weight|bias))?"
)

UNREAD = {  # changes that are no sum of W_0 and a product that stands in the file alone
    "an OFT": re.compile(r"\.(oft|boft)_"),
    "a GLoRA": re.compile(r"\.[ab][12]\.weight$"),
    "an (IA)³": re.compile(r"\.on_input$|\.ia3_l"),
    "a VeRA": re.compile(r"vera_lambda_"),
    "a LoRA of an embedding table": re.compile(r"\.lora_embedding_[AB]"),
    "a Control-LoRA, which is a ControlNet": re.compile(r"^lora_controlnet$"),
    "a LoRA that numbers what it changes and does not name it": re.compile(r"^(unet|text_encoder):\d+:"),
}
OTHERS = {  # what lies in safetensors files and is no LoRA
    "an embedding (textual inversion)": re.compile(r"^bundle_emb\.|^emb_params$|string_to_param|^clip_[lg]$|^<"),
    "a ControlNet": re.compile(r"^(control_model|controlnet_cond_embedding|controlnet_mid_block|zero_convs)\b"),
    "a whole checkpoint": re.compile(r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\."),
    "an autoencoder": re.compile(r"^(encoder|decoder)\.(down|up|mid|conv)[._]?"),
    "a whole network": re.compile(r"^(down_blocks|up_blocks|transformer_blocks|double_blocks|text_model)\."),
}


@dataclass(frozen=True)
class Key:
    """A key of a file, taken apart.

    Attributes:
        stem: what names a module.
        role: what the tensor is, such as "down", "alpha", "hada_w1_a", "bias".
        adapter: peft's name of the adapter; "" where the key has none.
    """

    stem: str
    role: str
    adapter: str


def read_key(key: str) -> Key | None:
    """A key that speaks of a LoRA; None for any other."""
    match = KEY.fullmatch(key)
    if not match or (match["kind"] == "bias" and ROLES[match["role"]] != "up"):
        return None
    return Key(match["stem"], "bias" if match["kind"] == "bias" else ROLES[match["role"]], match["adapter"] or "")


def unread_kind(keys: Iterable[str]) -> str:
    """The kind of change, with its article, that keys speak of and that is not read here; "" where it is none."""
    return _first(UNREAD, keys)


def other(keys: Iterable[str]) -> str:
    """What keys are of where they are of no LoRA, with its article; "" where that is unknown."""
    return _first(OTHERS, keys)


def _first(kinds: Mapping[str, re.Pattern[str]], keys: Iterable[str]) -> str:
    keys = list(keys)
    return next((kind for kind, pattern in kinds.items() if any(map(pattern.search, keys))), "")


def flat(stem: str) -> str:
    """A stem as its module is spelt in `Modules`: dots as underscores, without the wrappers of a network."""
    return "_".join(name for name in stem.split(".") if name not in WRAPPERS)


def named_part(stem: str) -> str:
    """The part of a pipeline that a stem says it is of; "" where it says none."""
    name = flat(stem).removeprefix(PEFT)
    return next((part for part, prefixes in PREFIXES.items() if name.startswith(prefixes)), "")


class Modules:
    """The modules of some networks under every name that files have for them.

    Args:
        names: of the modules, by the part of the pipeline: "unet", "text_encoder", "text_encoder_2", "vae".
    """

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._known = {part: _spelt(part, list(modules)) for part, modules in names.items()}

    def find(self, stem: str) -> Module | None:
        """The module that a stem speaks of; None where these networks have none such."""
        name = flat(stem).removeprefix(PEFT)
        for part, known in self._known.items():
            bare = ("",) if part != "vae" else ()  # peft's own files and old ones of diffusers name no part
            for prefix in (*PREFIXES[part], *bare):
                if name.startswith(prefix) and (module := known.get(name[len(prefix) :].removeprefix(PEFT))):
                    return part, module
        return None


def _spelt(part: str, modules: list[str]) -> dict[str, str]:
    """Modules by all their names; where two claim one, its own name counts."""
    originals = _originals(modules) if part == "unet" else {}
    known: dict[str, str] = {}
    for module in modules:
        for name in _names(part, module, originals):
            known.setdefault(flat(name), module)
    return known | {flat(module): module for module in modules}


def _names(part: str, module: str, originals: Mapping[str, str]) -> Iterator[str]:
    if part.startswith("text_encoder"):
        bare = module.removeprefix("text_model.")  # transformers has dropped it, the files have it
        for name in (bare, re.sub(r"self_attn\.(q|k|v|out)_proj$", r"self_attn.to_\1", bare)):
            yield from (name, f"text_model.{name}")
        return
    yield from (module, *_attention(module))
    if module in originals:
        yield from (originals[module], *_attention(originals[module]))


def _attention(module: str) -> Iterator[str]:
    """As diffusers named projections before peft: those of the processor of an attention."""
    if match := re.fullmatch(r"(.+\.attn[12])\.(to_[qkv]|to_out)(?:\.0)?", module):
        attention, projection = match.groups()
        yield from (f"{attention}.processor.{projection}", f"{attention}.{projection}")


RESIDUAL = {  # of a residual block, as the first implementation names them
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
BLOCK = re.compile(r"(?P<half>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<number>\d+)\.(?P<rest>.+)")
MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<number>\d+)\.(?P<rest>.+)")


def _originals(modules: list[str]) -> dict[str, str]:
    """The modules of a UNet by the names that they have in its first implementation, where they have one there.

    There the layers of each half are numbered through, samplers included: ``input_blocks.4.1`` is an attention.
    """
    made = {module: ENDS[module] for module in modules if module in ENDS}
    for match in filter(None, map(MIDDLE.fullmatch, modules)):
        number = 1 if match["kind"] == "attentions" else 2 * int(match["number"])
        made[match[0]] = f"middle_block.{number}.{RESIDUAL.get(match['rest'], match['rest'])}"
    blocks = list(filter(None, map(BLOCK.fullmatch, modules)))
    counts: Counter[tuple[str, int, str]] = Counter()  # layers by half, block and kind
    for match in blocks:
        key = match["half"], int(match["block"]), match["kind"]
        counts[key] = max(counts[key], int(match["number"]) + 1)
    for match in blocks:
        half, block, number, rest = match["half"], int(match["block"]), int(match["number"]), match["rest"]
        first, behind = (
            sum(counts[half, earlier, "resnets"] for earlier in range(block)),
            counts[half, block, "resnets"],
        )
        if half == "down":
            shift = 1 + sum(counts[half, earlier, "downsamplers"] for earlier in range(block))
            first, behind = first + shift, behind + shift
        side = "input_blocks" if half == "down" else "output_blocks"
        match match["kind"]:
            case "resnets":
                made[match[0]] = f"{side}.{first + number}.0.{RESIDUAL.get(rest, rest)}"
            case "attentions":
                made[match[0]] = f"{side}.{first + number}.1.{rest}"
            case "downsamplers":
                made[match[0]] = f"{side}.{behind}.0.op"
            case "upsamplers":
                layer = 2 if counts[half, block, "attentions"] else 1
                made[match[0]] = f"{side}.{behind - 1}.{layer}.{rest}"
    return made
