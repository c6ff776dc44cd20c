"""Zoo models on dynamically binarised MNIST with the same networks and budget: ELBO and log p(x) over seeds.

    python benchmarks/zoo.py [--models vae,iwae-5,…] [--seeds 3] [--epochs 10] [--device cpu] [--runs FOLDER] [--json FILE]

Both networks are 784-200-200, with 10 latents, a batch size of 128, and a learning rate with cosine decay from 1e-3 to 0. Each
run uses one thread. Log p(x) is estimated from 500 importance samples for each of the 10,000 test images. With ``--runs``, runs
are kept, and complete runs are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import write

import vaekit

COMMON: dict[str, Any] = {
    "dataset": "mnist",
    "binarize": "dynamic",
    "encoder.hidden": (200, 200),
    "decoder.hidden": (200, 200),
    "latent_dim": 10,
    "lr": 1e-3,
    "pictures": "none",
    "threads": 1,
    "precision": "fp32",
}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"model": "vae"},
    "iwae-5": {"model": "iwae", "num_samples": 5},
    "iwae-50": {"model": "iwae", "num_samples": 50},
    "vampprior": {"model": "vampprior", "num_inputs": 100},
    "exemplar-vae": {"model": "exemplar-vae"},
    "maf-prior": {"model": "maf-prior"},
    "iaf": {"model": "iaf"},
    "ladder-vae": {"model": "ladder-vae"},
    "s-vae": {"model": "s-vae", "latent_dim": 11},  # a sphere of as many dimensions
}


def measure(name: str, seed: int, folder: Path, settings: argparse.Namespace) -> dict[str, float]:
    """Train a model unless a complete run exists; return its ELBO and log p(x) on the test set."""
    out, device = folder / f"{name}-{seed}", settings.device
    given = {**COMMON, **MODELS[name], "seed": seed, "epochs": settings.epochs, "device": device}
    run = vaekit.Run(out) if out.is_dir() else vaekit.train(**given, out=out)
    numbers = run.evaluation() or {}
    if numbers.get("samples") != settings.samples:
        numbers = run.evaluate(samples=settings.samples, device=device)
    return {"elbo": numbers["elbo"], "log_px": numbers["log_likelihood"], "kl": numbers["kl"]}


def main() -> None:
    """Train all models with all seeds and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        for name in arguments.models.split(","):
            found = [measure(name, seed, folder, arguments) for seed in range(arguments.seeds)]
            results[name] = {key: [each[key] for each in found] for key in found[0]}
            means = {key: f"{statistics.mean(values):9.2f}" for key, values in results[name].items()}
            seeds = " ".join(f"{value:.2f}" for value in results[name]["log_px"])
            print(f"{name:12} ELBO {means['elbo']}  log p(x) {means['log_px']} ({seeds})  KL {means['kl']}", flush=True)
            write(arguments.json, 1, results, epochs=arguments.epochs, samples=arguments.samples)


if __name__ == "__main__":
    main()
