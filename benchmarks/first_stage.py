"""The first stage of latent diffusion on CIFAR-10: vaekit and the training script of diffusers, same network, images and steps.

    pip install ".[diffusers]" && python benchmarks/first_stage.py cifar10.npz [--images 10000] [--epochs 10] [--json FILE]

CIFAR10.npz holds ``x_train`` and ``x_test``, (N, 32, 32, 3), uint8. The peer is a reimplementation of diffusers'
`train_autoencoderkl.py` at commit 2e348b8, including its faults:

* LPIPS is computed without gradients, so it has no effect. It is omitted here, which favours the peer.
* The critic's loss is computed, but never differentiated, and its optimiser never steps.
* The critic's adaptive weight is computed at every step, even before the critic starts at step 50,001.
* By default, the learning rate is 4.5e-6, constant after 500 steps of warm-up. It is also run with vaekit's learning rate.
* Pictures are decoded, scaled and normalised one by one.

vaekit trains the same network, `ldm`, with absolute errors and a KL of weight 1e-6, with and without a perceptual loss and a
critic. Each contender takes the same number of steps of the same size. PSNR and SSIM refer to reconstructions from the
posterior means of 2,000 test images after each epoch; times include only training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import vaekit
from vaekit.nn.ssim import ssim

CHANNELS, LATENTS, HELD_OUT = (16, 32, 64), 4, 2000
SCRIPT_LR, OWN_LR, KL_SCALE, DISC_SCALE = 4.5e-6, 1e-3, 1e-6, 1.0


class Pictures(Dataset[Tensor]):
    """Pictures that are transformed one by one, as in the script."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images = [Image.fromarray(image) for image in images]
        self.transform = transforms.Compose(
            [
                transforms.Resize(32, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(32),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        picture: Tensor = self.transform(self.images[index])
        return picture


def critic() -> nn.Sequential:
    """Return a patch critic with batch normalisation."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
    for before, after, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
        layers += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))


def quality(reconstruct: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, float]:
    """Return the mean PSNR and SSIM of reconstructions of images in [0, 1]."""
    with torch.no_grad():
        made = torch.cat([reconstruct(part) for part in images.split(250)]).clamp(0, 1)
    errors = (images - made).square().flatten(1).mean(1)
    return {"psnr": -10 * errors.log10().mean().item(), "ssim": ssim(images, made).mean().item()}


def script(train: np.ndarray[Any, Any], test: Tensor, epochs: int, batch: int, lr: float) -> list[dict[str, float]]:
    """Train like the script; return time and quality after each epoch."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    stages = len(CHANNELS)
    vae: Any = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        latent_channels=LATENTS,
        norm_num_groups=4,
    )
    discriminator = critic()
    loader = DataLoader(Pictures(train), shuffle=True, batch_size=batch)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 500))
    seconds, found = 0.0, []
    for _ in range(epochs):
        began = time.perf_counter()
        for targets in loader:
            posterior = vae.encode(targets).latent_dist
            made = vae.decode(posterior.sample()).sample
            nll = F.mse_loss(made, targets, reduction="none").sum() / len(targets)
            fooling = -discriminator(made).mean()
            last = vae.decoder.conv_out.weight
            (of_nll,) = torch.autograd.grad(nll, last, retain_graph=True)
            (of_critic,) = torch.autograd.grad(fooling, last, retain_graph=True)
            weight = (of_nll.norm() / (of_critic.norm() + 1e-4)).clamp(0, 1e4).detach() * DISC_SCALE
            loss = nll + KL_SCALE * posterior.kl().sum() / len(targets) + weight * 0.0 * fooling
            [each.item() for each in (loss, nll, weight, fooling)]  # its log
            loss.backward()
            nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        vae.eval()
        found.append(
            {"seconds": seconds} | quality(lambda x: (vae.decode(vae.encode(2 * x - 1).latent_dist.mean).sample + 1) / 2, test)
        )
        vae.train()
        print(f"  {found[-1]}", flush=True)
    return found


def own(file: Path, folder: Path, epochs: int, batch: int, **options: Any) -> list[dict[str, float]]:
    """Train with vaekit; return time and quality after each epoch."""
    network = {"kind": "ldm", "channels": CHANNELS}
    settings: dict[str, Any] = {
        "dataset": {"kind": "array", "path": str(file)},
        "encoder": network,
        "decoder": network,
        "likelihood": {"kind": "l1", "link": "identity"},
        "latent_dim": LATENTS,
        "latent_stride": 4,
        "loss": [{"kind": "beta", "beta": KL_SCALE}],
        "lr": OWN_LR,
        "best": "last",
        "pictures": "none",
        "epochs": epochs,
        "batch_size": batch,
        "threads": torch.get_num_threads(),
    }
    run = vaekit.train(**settings | options, out=folder)
    found = [
        {"seconds": record["seconds"], "psnr": record["validation_psnr"], "ssim": record["validation_ssim"]}
        for record in run.metrics()
    ]
    print("\n".join(f"  {each}" for each in found), flush=True)
    return found


def main() -> None:
    """Train every contender and print its curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0, for the perceptual loss")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = np.load(arguments.data)
    train, held_out = data["x_train"][: arguments.images], data["x_test"][:HELD_OUT]
    test = torch.from_numpy(held_out).permute(0, 3, 1, 2).float() / 255
    epochs, batch = arguments.epochs, arguments.batch
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "cifar10.npz"
        np.savez(file, x_train=train, x_validation=held_out, x_test=held_out)
        contenders: dict[str, Callable[[], list[dict[str, float]]]] = {
            "script": lambda: script(train, test, epochs, batch, SCRIPT_LR),
            "script, learning rate 1e-3": lambda: script(train, test, epochs, batch, OWN_LR),
            "vaekit": lambda: own(file, folder / "plain", epochs, batch, ema=0.999),
        }
        if arguments.weights is not None:
            losses = [
                {"kind": "beta", "beta": KL_SCALE},
                {"kind": "perceptual", "weights": str(arguments.weights), "weight": 500.0},
                {"kind": "adversarial", "adaptive": True, "objective": "hinge", "weight": f"step(0, 0.5, {epochs / 2:g})"},
            ]
            contenders["vaekit, perceptual and adversarial"] = lambda: own(
                file, folder / "sharp", epochs, batch, ema=0.999, loss=losses
            )
        for name, contender in contenders.items():
            print(name, flush=True)
            results[name] = contender()
    write(arguments.json, arguments.threads, results, images=arguments.images, epochs=epochs, batch=batch)


if __name__ == "__main__":
    main()
