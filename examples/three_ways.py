"""The same VAE three ways: from scratch, in Keras and by vaekit, over several seeds; an error unless they agree.

    python -m pip install keras
    python examples/three_ways.py [--epochs 5] [--seeds 3]

The networks, the optimiser, the data and the bound are the same, but not the random numbers: two seeds of one implementation
differ, and implementations may differ as much.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import from_scratch
import keras_vae


def main(epochs: int, seeds: int) -> dict[str, list[float]]:
    """Return the bounds that each reaches, one for each seed."""
    reached: dict[str, list[float]] = {"from scratch": [], "Keras": [], "vaekit": []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            found = from_scratch.main(epochs, Path(folder), seed) | {"Keras": keras_vae.main(epochs, seed)}
        for name, bound in found.items():
            reached[name].append(bound)
    return reached


def report(reached: dict[str, list[float]]) -> None:
    """Print a table of the bounds, and raise an error unless the means agree within three standard deviations of a run."""
    spread = statistics.fmean(statistics.variance(bounds) for bounds in reached.values()) ** 0.5
    for name, bounds in reached.items():
        print(f"{name:14}" + "".join(f"{bound:9.1f}" for bound in bounds) + f"   mean {statistics.fmean(bounds):.1f}")
    means = [statistics.fmean(bounds) for bounds in reached.values()]
    print(f"largest difference of means: {max(means) - min(means):.1f}; standard deviation over seeds: {spread:.1f} nats")
    assert max(means) - min(means) < 3 * spread, "the three do not agree"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    report(main(arguments.epochs, arguments.seeds))
