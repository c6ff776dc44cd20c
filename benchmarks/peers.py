"""vaekit against its peers: training, and log p(x) by importance sampling, with the same network, batch size and optimiser.

    pip install pythae==0.1.2 && python benchmarks/peers.py [--repeats 5] [--threads 2] [--json benchmarks/results/peers.json]

The peers are timed as released, in alternation with vaekit, on copies of vaekit's networks:

* pythae 0.1.2: `BaseTrainer.train_step`, an epoch over its own `BaseDataset` of float images, and `VAE.get_nll` with its default
  batch of 100 samples. Its Bernoulli loss takes probabilities, so its decoder ends in a sigmoid, as in its own networks.
* The loop of PyTorch's `vae` example, reimplemented from its description: images stored as bytes are converted to pictures and
  then to tensors one by one, Adam is not fused, and the loss is read at each step.

vaekit is timed with an epoch of its trainer, as in train_throughput.py, and with `log_likelihood`. All use the same bytes.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import in_turn, per_second, ratios, write
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor
from train_throughput import NETWORKS, make_trainer, networks, one_epoch

from vaekit.data import Batch
from vaekit.evaluation.importance import log_likelihood
from vaekit.training.trainer import Trainer

BATCH, SAMPLES, IMAGES = 128, 5000, 4


def pythae_model(trainer: Trainer) -> Any:
    """Return a pythae VAE with copies of a trainer's networks."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Any:
            mu, logvar = self.network(x).unbind(1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    vae, (encoder, decoder) = trainer.step.objective.vae, networks(trainer)
    config = VAEConfig(input_dim=vae.data_shape, latent_dim=vae.latent_dim, reconstruction_loss="bce")
    return VAE(config, Encoder(encoder), Decoder(decoder))


def pythae_epoch(trainer: Trainer, folder: Path, batch: int = BATCH) -> Callable[[], None]:
    """Return a function that runs one epoch of pythae's trainer."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    source = trainer.splits.train
    images = source.gather(torch.arange(len(source), device=source.device)).float().cpu() / 255
    config = BaseTrainerConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        learning_rate=1e-4,
        num_epochs=1,
        no_cuda=trainer.step.device.type != "cuda",
    )
    theirs = BaseTrainer(pythae_model(trainer), BaseDataset(images, torch.zeros(len(images))), training_config=config)
    theirs.prepare_training()
    return lambda: theirs.train_step(1)


class Pictures(Dataset[Tensor]):
    """Bytes that are converted to a picture and then to a tensor, image by image, as in torchvision's MNIST."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.transform = images, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.fromarray(self.images[index].numpy()))
        return image


def example_epoch(trainer: Trainer) -> Callable[[], None]:
    """Return a function that runs one epoch of PyTorch's example."""
    encoder, decoder = networks(trainer)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    source = trainer.splits.train
    loader = DataLoader(Pictures(source.gather(torch.arange(len(source)))[:, 0]), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        total = 0.0
        for x in loader:
            optimizer.zero_grad()
            mu, logvar = encoder(x).unbind(1)
            std = torch.exp(0.5 * logvar)
            probabilities = torch.sigmoid(decoder(mu + torch.randn_like(std) * std))
            reconstruction = F.binary_cross_entropy(probabilities, x, reduction="sum")
            loss = reconstruction - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()

    return epoch


def training(case: str, peers: tuple[str, ...], *, steps: int, threads: int, repeats: int) -> dict[str, Any]:
    """Time epochs of ``steps`` steps, vaekit's first; return images per second and vaekit's speed-up."""
    trainer = make_trainer(NETWORKS[case], steps, threads, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        others = {"pythae": lambda: pythae_epoch(trainer, Path(folder)), "pytorch example": lambda: example_epoch(trainer)}
        times = in_turn({"vaekit": one_epoch(trainer)} | {name: others[name]() for name in peers}, repeats)
    speeds = {name: per_second(steps * BATCH, spent) for name, spent in times.items()}
    return {"images_per_second": speeds, "against": {name: ratios(times[name], times["vaekit"]) for name in peers}}


def likelihood(*, threads: int, repeats: int, precision: str) -> dict[str, Any]:
    """Time log p(x) of a few images with 5,000 samples; return images per second, the ratio, and both estimates."""
    trainer = make_trainer(NETWORKS["mlp 784-512-20"], 100, threads, BATCH)
    one_epoch(trainer)()
    theirs = pythae_model(trainer).eval()
    vae = trainer.step.objective.vae
    x = (trainer.splits.train.gather(torch.arange(IMAGES)) > 127).float()  # type: ignore[operator]
    batch = Batch(x, x, None, torch.arange(IMAGES))
    estimates: dict[str, float] = {}

    def ours() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            estimates["vaekit"] = log_likelihood(vae, [batch], trainer.step.streams, samples=SAMPLES)["log_likelihood"]

    def pythae() -> None:
        with torch.no_grad():
            estimates["pythae"] = float(theirs.get_nll(x, n_samples=SAMPLES))

    times = in_turn({"vaekit": ours, "pythae": pythae}, repeats)
    linears = [module for module in vae.decoder.modules() if isinstance(module, nn.Linear)]
    work = 2 * SAMPLES * IMAGES * sum(layer.weight.numel() for layer in linears)
    speeds = {name: per_second(IMAGES, spent) for name, spent in times.items()}
    against = {"pythae": ratios(times["pythae"], times["vaekit"])}
    return {
        "images_per_second": speeds,
        "against": against,
        "gflops_of_decoding": per_second(work / 1e9, times["vaekit"]),
        "log_likelihood": estimates,
    }


def main() -> None:
    """Run every comparison and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    given = {"threads": arguments.threads, "repeats": arguments.repeats}
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    comparisons: dict[str, Callable[[], dict[str, Any]]] = {
        "training, mlp": lambda: training("mlp 784-512-20", ("pythae", "pytorch example"), steps=100, **given),
        "training, cnn": lambda: training("cnn (32, 64)", ("pythae",), steps=30, **given),
        "log p(x), mlp, fp32": lambda: likelihood(precision="fp32", **given),
        "log p(x), mlp, bf16": lambda: likelihood(precision="bf16", **given),
    }
    results = {}
    for name, compare in comparisons.items():
        row = results[name] = compare()
        speeds = "  ".join(f"{who} {speed:,.1f}/s" for who, speed in row["images_per_second"].items())
        against = "  ".join(
            f"against {who} {ratio['ratio_median']:.2f} ({ratio['ratio_min']:.2f} to {ratio['ratio_max']:.2f})"
            for who, ratio in row["against"].items()
        )
        print(f"{name:22} {speeds}  {against}  {row.get('log_likelihood', '')}", flush=True)
    write(arguments.json, arguments.threads, results, repeats=arguments.repeats, samples=SAMPLES)


if __name__ == "__main__":
    main()
