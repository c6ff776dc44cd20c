"""How well each score tells MNIST from Fashion-MNIST under a model of Fashion-MNIST, of which the likelihood alone does not.

    python benchmarks/anomaly.py [--epochs 5] [--samples 20] [--json benchmarks/results/anomaly.json]

It trains a model with a likelihood of 256 grey levels on Fashion-MNIST, and a background model on the same images with random
Fashion-MNIST, which are normal, and those of MNIST, which are anomalies. Data are read as ``vaekit train`` reads them.
Fashion-MNIST, which are normal, and those of MNIST, which are anomalies. Both data sets are read as ``vaekit train`` reads them.
It takes a few minutes on one core, and prints the commands.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write

import vaekit

MUTATION = 0.2
MODEL: dict[str, Any] = {
    "likelihood": "discretized_logistic",
    "latent_dim": 20,
    "device": "cpu",
    "threads": 1,
    "pictures": "none",
}


def mutated(folder: Path) -> Path:
    """Write the training and validation images of Fashion-MNIST with random changes to a file, and return it."""
    splits = vaekit.datasets.get("fashion_mnist")().load()
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, part in splits.parts.items():
        images = part.gather(torch.arange(len(part))).numpy()
        changed = rng.random(images.shape) < MUTATION
        arrays[f"{name}_images"] = np.where(changed, rng.integers(0, 256, images.shape), images).astype(np.uint8)
    np.savez(folder / "mutated.npz", **arrays)
    return folder / "mutated.npz"


def main() -> None:
    """Train both models, score both data sets, and print the quality of each score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=20, help="Importance samples for log p(x).")
    parser.add_argument("--likelihood", default=MODEL["likelihood"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = {**MODEL, "likelihood": arguments.likelihood, "epochs": arguments.epochs}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start = time.perf_counter()
        print(f"vaekit train --dataset fashion_mnist --binarize none {flags} --out clothes", flush=True)
        run = vaekit.train(dataset="fashion_mnist", binarize="none", out=folder / "clothes", **options)
        print(f"vaekit train --dataset array --dataset.path mutated.npz {flags} --out background", flush=True)
        path = str(mutated(folder))
        background = vaekit.train(dataset="array", **{"dataset.path": path, **options}, out=folder / "background")
        trained = time.perf_counter()
        print(
            f"vaekit score clothes --against mnist --score input_complexity --samples {arguments.samples} --background background"
        )
        scores = run.score(
            against="mnist",
            score="input_complexity",
            samples=arguments.samples,
            background=background,
            quantile=0.95,
            device="cpu",
        )
        seconds = {"train": trained - start, "score": time.perf_counter() - trained}
        fixed = run.score(against="mnist", deterministic=True, device="cpu")
    quality, known = scores.quality, scores["anomaly"]
    deterministic = {f"{name}, deterministic": area for name, area in fixed.quality["auroc"].items() if name != "squared_error"}
    print(f"{'score':32} AUROC   AP")
    for name, area in quality["auroc"].items():
        print(f"{name:32} {area:.4f}  {quality['average_precision'][name]:.4f}")
    for name, area in deterministic.items():
        print(f"{name:32} {area:.4f}")
    means = {
        name: {"fashion_mnist": float(scores[name][~known].mean()), "mnist": float(scores[name][known].mean())}
        for name in ("elbo", "reconstruction", "kl", "log_likelihood", "complexity", "background")
    }
    for name, each in means.items():
        print(f"mean {name:16} fashion_mnist {each['fashion_mnist']:10.1f}  mnist {each['mnist']:10.1f}")
    print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    results = {"quality": quality, "auroc_deterministic": deterministic, "means": means, "seconds": seconds}
    write(arguments.json, 1, results, epochs=arguments.epochs, samples=arguments.samples, mutation=MUTATION, model=options)


if __name__ == "__main__":
    main()
