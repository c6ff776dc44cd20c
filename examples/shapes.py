"""Write a folder of small colour pictures, to try ``vaekit train --dataset folder`` on.

    python examples/shapes.py photos [--num 600]

Each picture shows a disc or a square on a plain background; the subfolder is the label.
"""

import argparse
import colorsys
import random
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 32


def draw(label: str, chance: random.Random) -> Image.Image:
    """Return a picture of a disc or a square, of random colour, size and place, with smooth edges."""
    colour, background = (
        tuple(int(255 * c) for c in colorsys.hsv_to_rgb(chance.random(), s, v)) for s, v in ((0.8, 0.9), (0.2, 0.6))
    )
    large = Image.new("RGB", (4 * SIDE, 4 * SIDE), background)
    radius, x, y = chance.uniform(16, 36), chance.uniform(40, 88), chance.uniform(40, 88)
    place = (x - radius, y - radius, x + radius, y + radius)
    paint = ImageDraw.Draw(large)
    (paint.ellipse if label == "disc" else paint.rectangle)(place, fill=colour)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def main(folder: Path, num: int) -> None:
    """Write the pictures."""
    chance = random.Random(0)
    for label in ("disc", "square"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(num // 2):
            draw(label, chance).save(folder / label / f"{number:04}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=600)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.num)
