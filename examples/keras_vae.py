"""The VAE of from_scratch.py in Keras 3, on its torch backend: the same digits, networks, optimiser and bound.

    python -m pip install keras
    python examples/keras_vae.py [--epochs 10] [--seed 0]

Keras runs the loop, the optimiser and the loss of reconstructions; the layer `Sampling` adds the KL. The script adds what
Keras lacks: the sum over pixels, black and white pixels sampled again each epoch, and the bound of test images.

References:
    Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114.
"""

import argparse
import math
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported

import keras
import numpy as np
import torch
from keras import layers, ops

from vaekit import roles

DIM = 2
"""Size of a code."""


class Sampling(layers.Layer):
    """Draws z from q(z|x) so that gradients pass, and adds KL(q(z|x) ‖ p(z)) to the loss."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, parameters: Any) -> Any:
        """Map mu and log sigma², ``(B, 2, D)``, to codes ``(B, D)``."""
        mu, logvar = parameters[:, 0], parameters[:, 1]
        kl = 0.5 * ops.sum(mu**2 + ops.exp(logvar) - 1 - logvar, axis=1)
        self.add_loss(ops.mean(kl))
        return mu + ops.exp(0.5 * logvar) * keras.random.normal(ops.shape(mu), seed=self.generator)


def reconstruction(x: Any, logits: Any) -> Any:
    """Return -log p(x|z) for each image: the cross-entropy of black and white pixels, *summed* over them."""
    return ops.sum(ops.binary_crossentropy(x, logits, from_logits=True), axis=(1, 2, 3))


class BlackAndWhite(keras.utils.PyDataset):
    """Batches of images whose grey pixels become black or white at random, again in each epoch.

    Args:
        images: The grey images, ``(N, 1, 28, 28)``, in [0, 1].
        seed: The seed of the order and of the pixels.
    """

    def __init__(self, images: np.ndarray, seed: int) -> None:
        super().__init__()
        self.images, self.random = images, np.random.default_rng(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.images) / 128)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        grey = self.images[128 * number : 128 * (number + 1)]
        x = (self.random.random(grey.shape) < grey).astype(np.float32)
        return x, x

    def on_epoch_end(self) -> None:
        """Shuffle the images."""
        self.random.shuffle(self.images)


def build(seed: int) -> keras.Model:
    """Return the model: from images to logits, by way of a code of two numbers."""
    keras.utils.set_random_seed(seed)
    hidden = {"units": 256, "activation": "relu", "kernel_initializer": "he_normal"}
    output = {"kernel_initializer": keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")}  # torch's default
    x = keras.Input((1, 28, 28))
    parameters = layers.Dense(2 * DIM, **output)(layers.Dense(**hidden)(layers.Flatten()(x)))
    z = Sampling(seed)(layers.Reshape((2, DIM))(parameters))
    logits = layers.Dense(784, **output)(layers.Dense(**hidden)(z))
    model = keras.Model(x, layers.Reshape((1, 28, 28))(logits))
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=reconstruction)
    return model


def main(epochs: int, seed: int = 0) -> float:
    """Train the model; return the bound of test images, in nats per image."""
    digits = roles.datasets.build(roles.datasets.spec("digits")()).load()  # the same splits as everywhere else
    train, test = (part.gather(torch.arange(len(part))).numpy().astype(np.float32) / 255 for part in (digits.train, digits.test))
    model = build(seed)
    model.fit(BlackAndWhite(train, seed), epochs=epochs, verbose=0)
    bound = -float(model.evaluate(BlackAndWhite(test, seed), verbose=0))
    print(f"Keras: a bound of {bound:.1f} nats per image after {epochs} epochs")
    return bound


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.seed)
