"""Prompts as tokens and weights: what plain ones were before, what weights do to an encoding, what is cut."""

import pytest
import torch
from transformers import CLIPTokenizer

from tests.tiny import TOKENIZER, build_text_encoder
from yoso_core.encoding import encode_prompt, tokens_of, weighted
from yoso_core.prompts import as_it_is, read_prompt


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def encode(tokenizer):
    """A text encoder of random weights, whose encodings have a mean as those of Stable Diffusion do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_text_encoder(tokenizer).eval()
    return lambda ids: encoder(ids)[0] - 0.1


@pytest.mark.parametrize("text", ["", "a red heart, 3d", "a " * 40, "猫 and 🐼, (c) 1.5:2", "a  b\n c"])
@torch.inference_mode()
def test_a_plain_prompt_is_what_the_tokenizer_makes_of_it(text, tokenizer, encode):
    limit = tokenizer.model_max_length
    tokens = tokens_of(as_it_is(text).parts[0], tokenizer)
    wanted = tokenizer(text, padding="max_length", truncation=True, max_length=limit, return_tensors="pt").input_ids
    assert torch.equal(tokens.ids, wanted) and (tokens.weights == 1).all()
    whole = tokenizer(text).input_ids
    assert tokens.cut == (tokenizer.decode(whole[limit - 1 : -1]) if len(whole) > limit else "")
    context, cut = encode_prompt(as_it_is(text), tokenizer, encode)
    assert torch.equal(context, encode(wanted)) and cut == tokens.cut


@torch.inference_mode()
def test_words_weigh_what_they_are_given_and_the_mean_is_kept(tokenizer, encode):
    """As AUTOMATIC1111's web UI computes it: scaled by token, then by the mean before over the mean after."""
    context, cut = encode_prompt(read_prompt("a (red:1.4) (cat, 3d:0.5)"), tokenizer, encode)
    ids = tokens_of(as_it_is("a red cat, 3d").parts[0], tokenizer).ids
    plain = encode(ids)
    words = tokenizer.convert_ids_to_tokens(ids[0])
    weights = torch.tensor([1.4 if word == "red</w>" else 1.0 for word in words])
    weights[words.index("cat</w>") : words.index("<|endoftext|>")] = 0.5
    wanted = plain * weights[None, :, None]
    wanted *= plain.mean() / wanted.mean()
    assert torch.allclose(context, wanted, atol=1e-6) and not cut
    assert torch.isclose(context.mean(), plain.mean()) and not torch.allclose(context, plain, atol=0.05)


def test_brackets_are_no_words(tokenizer, encode):
    plain, _ = encode_prompt(read_prompt("a red cat"), tokenizer, encode)
    same, _ = encode_prompt(read_prompt("a (red:1.0) [(cat)]"), tokenizer, encode)
    assert torch.equal(plain, same)


def test_a_mean_that_is_next_to_nothing_is_not_kept():
    """Behind a normalisation the mean is what rounding leaves; to keep it would scale by chance."""
    encoding = torch.nn.functional.layer_norm(torch.randn(1, 9, 32), [32])
    weights = torch.ones(1, 9)
    weights[0, 3] = 1.3
    assert torch.equal(weighted(encoding, weights), encoding * weights[..., None])
    for weight in (0.0, -5.0, 5.0):
        weights[0, 3] = weight
        assert weighted(encoding, weights).abs().max() <= 5 * encoding.abs().max()
    assert weighted(encoding.half(), weights).dtype == torch.float16


@torch.inference_mode()
def test_parts_are_encoded_one_behind_the_other(tokenizer, encode):
    context, _ = encode_prompt(read_prompt("a red cat BREAK (blue:1.2) dog"), tokenizer, encode)
    alone = [encode_prompt(read_prompt(text), tokenizer, encode)[0] for text in ("a red cat", "(blue:1.2) dog")]
    assert context.shape[1] == 2 * tokenizer.model_max_length and torch.equal(context, torch.cat(alone, dim=1))


def test_what_is_cut_is_told_of_every_part_without_brackets(tokenizer, encode):
    text = "a cat " + "and a (dog:1.2) " * 12 + "BREAK red " + "and [blue] " * 20
    _, cut = encode_prompt(read_prompt(text), tokenizer, encode)
    assert "dog" in cut and "blue" in cut and not set(cut) & set("()[]:.0123456789")
    assert cut.endswith("and blue") and not encode_prompt(read_prompt("a (cat) BREAK b"), tokenizer, encode)[1]
