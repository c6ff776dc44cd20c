"""The augmentation example works as described."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "augmentation.py"


def test_a_model_that_restores_upright_digits_keeps_less_of_the_slant_in_its_codes(tmp_path):
    shares = runpy.run_path(str(EXAMPLE))["main"](epochs=1, out=tmp_path / "slant.png")
    assert shares["slanted at random"] < 0.6 * shares["as they are"]
    assert (tmp_path / "slant.png").stat().st_size > 1000
