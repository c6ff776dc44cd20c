"""Learn a digit's shape independently of its slant, by augmentation during training.

    python examples/augmentation.py [--epochs 30] [--out slant.png]

Two models are trained on the same digits. The first sees the original digits. The second encodes digits slanted at random by up
to 35 degrees and must reconstruct the *upright original* (``augment.target = "original"``), so its code has no need to encode
the slant. Its objective is still a bound, since q(z|·) may depend on anything.

The picture shows four digits slanted by -30 to 30 degrees and each model's reconstructions. The printed number is the share of
the codes' variance that is due to slant alone: the variance of the posterior mean over the slants of a digit, divided by its
variance over all digits and slants.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.data.augment import resample
from vaekit.drawing.grid import grid
from vaekit.drawing.picture import write_picture

DEGREES = (-30, -15, 0, 15, 30)


def slanted(images: Tensor, degrees: float) -> Tensor:
    """Slant images ``(B, C, H, W)`` to the right by ``degrees``."""
    matrix = torch.tensor([[1.0, math.tan(math.radians(degrees))], [0.0, 1.0]]).expand(len(images), 2, 2)
    return resample(images, matrix, torch.zeros(len(images), 2), "zeros")


def share_of_slant(vae: vaekit.VAE, images: Tensor) -> float:
    """Return the share of the codes' variance that is due to slant alone."""
    codes = torch.stack([vae.encode(slanted(images, degrees)).mean for degrees in DEGREES])  # (slant, image, dimension)
    return float(codes.var(0).mean(0).sum() / codes.flatten(0, 1).var(0).sum())


def main(epochs: int, out: Path) -> dict[str, float]:
    """Train both models, print both shares and write the picture."""
    digits = roles.datasets.build(roles.datasets.spec("digits")()).load().test
    images = digits.gather(torch.arange(200)).float() / 255
    shown = images[[0, 3, 2, 1]]
    columns = [torch.cat([slanted(one[None], degrees) for degrees in DEGREES]) for one in shown]
    rows, shares = [torch.cat(columns)], {}
    settings = {
        "as they are": {},
        "slanted at random": {"augment.shear": 35, "augment.fill": "zeros", "augment.target": "original"},
    }
    for name, augment in settings.items():
        with tempfile.TemporaryDirectory() as folder:
            run = vaekit.train(epochs=epochs, pictures="none", out=Path(folder) / "run", **augment)
            vae = run.vae()
        shares[name] = share_of_slant(vae, images)
        print(f"trained on digits {name:18} slant explains {100 * shares[name]:4.1f} % of the codes' variance")
        rows.append(vae.reconstruct(rows[0]))
    write_picture(grid(torch.cat(rows), columns=len(rows[0])), out)
    print(f"{out}: digits slanted by {', '.join(map(str, DEGREES))} degrees; the first model's reconstructions; the second's")
    return shares


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("slant.png"))
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.out)
