"""Sample images from a decoder exported by vaekit, with onnxruntime, numpy and Pillow but without torch."""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    """Write the picture requested on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoder", help="the output of `vaekit export RUN --onnx`")
    parser.add_argument("picture", help="the output PNG")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latent", action="store_true", help="vary one latent at a time instead of sampling from the prior")
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.decoder, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vaekit"])
    latents = walks(about) if arguments.latent else draws(about, np.random.default_rng(arguments.seed))
    rows, columns, size = latents.shape
    [images] = session.run(["image"], {"latent": latents.reshape(-1, size).astype(np.float32)})
    low, high = about["value_range"]  # black and white
    tile((images - low) / (high - low), rows, columns).save(arguments.picture)


def draws(about: dict, rng: np.random.Generator, side: int = 8) -> np.ndarray:
    """Draw latent vectors from a standard normal prior."""
    if about["prior"]["kind"] != "normal":
        raise SystemExit(f"this program needs a normal prior; the model's prior is {about['prior']['kind']}")
    return rng.standard_normal((side, side, about["latent_size"]))


def walks(about: dict, rows: int = 8, columns: int = 9) -> np.ndarray:
    """Return latent vectors that vary one latent per row, in order of KL, with the others at their means."""
    entries = about["latents"]
    order = sorted(range(len(entries)), key=lambda i: -(entries[i]["kl"] or 0))[:rows]
    latents = np.tile([entry["mean"] for entry in entries], (len(order), columns, 1))
    for row, i in enumerate(order):
        latents[row, :, i] = np.linspace(*entries[i]["range"], columns)
    return latents


def tile(images: np.ndarray, rows: int, columns: int) -> Image.Image:
    """Arrange images (B, C, H, W) in [0, 1] in a grid."""
    _, channels, height, width = images.shape
    grid = images.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = np.rint(255 * grid.reshape(rows * height, columns * width, channels)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


if __name__ == "__main__":
    main()
