"""Checks that a change of the code left every number unchanged: trains small models of each kind and compares them bit by bit.

Run ``python benchmarks/identity.py before.json`` before the change, and the same command after it. If the file exists, the
results are compared with it, and each model whose weights, evaluation or metrics differ is named. Times are ignored. It takes
about a minute on 2 cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import vaekit

COMMON: dict[str, Any] = {"epochs": 2, "batch_size": 500, "threads": 1, "device": "cpu", "latent_dim": 4, "pictures": "none"}
SMALL_CNN = {"encoder": "cnn", "encoder.channels": (4, 8), "encoder.hidden": (16,), "batch_size": 1000, "epochs": 1}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp, static binarisation, weight decay, clipping": {"binarize": "static", "weight_decay": 0.01, "grad_clip": 1.0},
    "mlp, moving average, constant rate": {"ema": 0.9, "schedule": "constant"},
    "mlp, bf16": {"precision": "bf16"},
    "mlp, layer normalisation": {"encoder.normalization": "layer", "decoder.normalization": "group"},
    "mlp, free bits": {"loss": "beta", "beta": "linear(0, 2, 1)", "free_bits": 0.1},
    "mlp, total correlation": {"loss": "tc"},
    "mlp, capacity": {"loss": "capacity"},
    "mlp, mse": {"loss": "mse", "binarize": "none"},
    "mlp, gaussian": {"loss": "gaussian", "binarize": "none"},
    "mlp, laplace": {"loss": "laplace", "binarize": "none"},
    "plain autoencoder": {"posterior": "delta"},
    "cnn": {**SMALL_CNN, "decoder.channels": (8, 4), "decoder.hidden": (16,)},
    "cnn and bilinear, augmented": {
        **SMALL_CNN,
        "decoder": "bilinear",
        "decoder.channels": (8, 4),
        "augment.rotate": 10,
        "augment.target": "original",
    },
    "resnet": {
        **{"encoder": "resnet", "encoder.channels": (8, 16), "decoder.channels": (16, 8), "encoder.depth": 1, "decoder.depth": 1},
        **{"batch_size": 1000, "epochs": 1},
    },
}
SWEEP = {"over": {"lr": (1e-3, 2e-3), "seed": (0, 1)}, "loss": "beta", "beta": 4, "epochs": 2}
TIMES = {"seconds", "epoch_seconds", "images_per_second"}


def fingerprint(run: vaekit.Run) -> dict[str, Any]:
    """Return digests of a run's weights and of its metrics without times, together with its evaluation."""
    weights = hashlib.sha256()
    for name, tensor in sorted(load_file(run.path / "model.safetensors").items()):
        weights.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    metrics = [{name: value for name, value in record.items() if name not in TIMES} for record in run.metrics()]
    return {
        "weights": weights.hexdigest()[:16],
        "metrics": hashlib.sha256(json.dumps(metrics).encode()).hexdigest()[:16],
        "evaluation": json.loads((run.path / "evaluation.json").read_text("utf-8")),
    }


def fingerprints(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train all models one after another, and those of a sweep in a stack."""
    for number, (name, options) in enumerate(MODELS.items()):
        yield name, fingerprint(vaekit.train(out=folder / f"{number}", **{**COMMON, **options}))
    for run in vaekit.sweep(out=folder / "sweep", stack="on", **{**COMMON, **SWEEP}):
        yield f"stacked, {run.path.name}", fingerprint(run)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two fingerprints of the same model."""
    lines = [name for name in ("weights", "metrics") if before[name] != after[name]]
    old, new = before["evaluation"], after["evaluation"]
    return lines + [f"evaluation: {name}" for name in {**old, **new} if old.get(name) != new.get(name)]


def main() -> int:
    """Write the fingerprints to a file, or compare them with those in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="File of fingerprints, to write or to compare with.")
    file: Path = parser.parse_args().file
    known = json.loads(file.read_text("utf-8")) if file.exists() else None
    changed, found = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in fingerprints(Path(folder)):
            found[name] = content
            verdict = "recorded" if known is None else ", ".join(differences(known[name], content)) or "identical"
            changed += verdict not in {"recorded", "identical"}
            print(f"{name:<60}{content['weights']}  {verdict}", flush=True)
    if known is None:
        file.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return int(changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
