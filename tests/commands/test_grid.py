"""python -m yoso_core grid."""

from PIL import Image
from safetensors.torch import save_file

from tests.tiny import build_unet, random_lora
from yoso_core.__main__ import main


def test_grid_lays_settings_beside_one_another(tiny_model, drawing, tmp_path, capsys):
    save_file(random_lora(build_unet(), 0.5), tmp_path / "style.safetensors")
    out = tmp_path / "grid.png"
    arguments = ["grid", "a", "--in", drawing.path, "--fit", "crop", "--model", str(tiny_model), "--out", str(out)]
    arguments += ["--lora", str(tmp_path / "style.safetensors"), "--mask", drawing.mask_path]
    assert main([*arguments, "--x", "strength=0.5:1:2", "--y", "lora.style=0,0.5,1"]) == 0
    told = capsys.readouterr()
    assert [line.split(":")[0] for line in told.out.splitlines()[:3]] == ["0, 0.5", "0, 1", "0.5, 0.5"]
    assert told.err.count("80 x 60: cropped to its middle") == 1
    width, height = Image.open(out).size
    assert 2 * 192 < width < 3 * 192 < height < 4 * 192
    axis = f"lora.{tmp_path / 'style.safetensors'}=0,1"
    assert main(["grid", "a", "--model", str(tiny_model), "--out", str(out), "--x", axis]) == 0


def test_grid_lays_loras_beside_one_another(tiny_model, tmp_path, capsys):
    for step in (50, 200):
        save_file(random_lora(build_unet(), 0.5), tmp_path / f"step-{step:07d}.safetensors")
    arguments = ["grid", "a", "--model", str(tiny_model), "--out", str(tmp_path / "grid.png")]
    arguments += ["--lora", f"{tmp_path}/step-0000050.safetensors:0.5"]
    axis = f"adapter=none|step-0000050|{tmp_path}/step-0000200.safetensors"
    assert main([*arguments, "--x", axis, "--y", "seed=0,1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main([*arguments, "--x", "adapter=none|nothing"]) == 1
    assert "There is no LoRA 'nothing'" in capsys.readouterr().err
