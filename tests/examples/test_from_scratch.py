"""The example that explains the mathematics runs, and its assertions hold."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "from_scratch.py"


def test_a_vae_from_scratch_and_vaekits_reach_the_same_bound(tmp_path):
    reached = runpy.run_path(str(EXAMPLE))["main"](epochs=1, out=tmp_path)
    assert abs(reached["from scratch"] - reached["vaekit"]) < 25  # other initial weights, another order
    names = ("1-bound", "2-reconstructions", "3-codes", "4-manifold")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in names)
