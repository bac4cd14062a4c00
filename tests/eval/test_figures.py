"""The README's figures are drawn by a command."""

import sys

import pytest
from PIL import Image

from tests.conftest import REPO


@pytest.mark.slow
def test_figures_are_drawn(tmp_path, monkeypatch, capsys):
    from eval import figures

    monkeypatch.setattr(sys, "argv", ["figures.py", "--out", str(tmp_path)])
    assert figures.main() == 0
    for name in ("classes", "evolution", "drawn", "observatory"):
        drawn = Image.open(tmp_path / f"{name}.png")
        assert drawn.size == Image.open(REPO / "eval" / "figures" / f"{name}.png").size
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 50
