"""python -m yoso_core ladder."""

from PIL import Image

from yoso_core.__main__ import main


def test_ladder_draws_its_rungs(tiny_model, tmp_path, capsys):
    out = tmp_path / "new" / "ladder.png"
    arguments = ["ladder", "a", "--model", str(tiny_model), "--teacher-steps", "3", "--teacher-guidance", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out) and Image.open(out).width > 5 * 192
    assert [line.split(":")[0] for line in lines[:4]] == ["1 step", "2 steps", "4 steps", "Teacher, 3 steps"]
    assert "3 network evaluation(s)" in lines[3]
    assert main([*arguments, "--weights", "none", "--out", str(out)]) == 0
    assert "no one-step LoRA" in capsys.readouterr().err and Image.open(out).width < 4 * 192
