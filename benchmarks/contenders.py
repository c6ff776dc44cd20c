"""The training loops of vaekit and its peers: pythae, `autoencoders`, PyTorch's example, Lightning and Keras.

Each trains the networks that it is given on cross-entropy plus KL, with their batch size and learning rate, or the model with
which its library presents itself. All read the same images, stored as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import ToTensor
from train_throughput import networks

from vaekit.data import Splits, TensorImages
from vaekit.model.assembly import assemble
from vaekit.specs.options import build_spec
from vaekit.store.folder import RunFolder
from vaekit.training.checkpoints import Position
from vaekit.training.hardware import fit_to_data, fit_to_machine, fit_to_model
from vaekit.training.trainer import Trainer


class Given(NamedTuple):
    """Networks to train, from images to mean and log-variance ``(B, 2, D)`` and from codes to logits, and how to train them."""

    encoder: nn.Module
    decoder: nn.Module
    batch: int
    lr: float


def given_by(trainer: Trainer) -> Given:
    """Return copies of a trainer's networks, with its batch size and learning rate."""
    train = trainer.spec.train
    return Given(*networks(trainer), train.batch_size, train.lr)


class Contender(NamedTuple):
    """A loop, and the model that it trains."""

    epoch: Callable[[], object]
    """Trains for an epoch."""
    optimizer: Any
    """Has ``step`` or, in Keras, ``apply``."""
    encode: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Maps images to mean and log-variance."""
    decode: Callable[[Tensor], Tensor]
    """Maps codes to probabilities of white pixels."""


def contender(epoch: Callable[[], object], optimizer: Any, encoder: nn.Module, decoder: nn.Module) -> Contender:
    """Return a contender whose networks are of the form of `Given`."""
    return Contender(epoch, optimizer, lambda x: encoder(x).unbind(1), lambda z: torch.sigmoid(decoder(z)))


def negative_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """Return the loss of a batch, as one writes it by hand."""
    mu, logvar = encoder(x).unbind(1)
    logits = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (reconstruction - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


def example_networks() -> Given:
    """Return the networks of PyTorch's example, 784-400-20, its batch size and its learning rate."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40), nn.Unflatten(1, (2, 20)))
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, (1, 28, 28)))
    return Given(encoder, decoder, 128, 1e-3)


def floats(images: Tensor) -> Tensor:
    """Return images in [0, 1]."""
    return images.float() / 255


def vaekit_trainer(images: Tensor, folder: Path, seed: int, threads: int) -> Trainer:
    """Return a trainer with the defaults of ``vaekit train --dataset mnist``."""
    spec = fit_to_machine(build_spec({}, {"dataset": "mnist", "device": "cpu", "seed": seed, "threads": threads}))
    source = TensorImages(images)
    splits = Splits(source, source, source)
    spec = fit_to_data(spec, splits)
    objective = assemble(spec, splits)
    return Trainer(fit_to_model(spec, objective), objective, splits, RunFolder.create(spec, folder / "vaekit"))


def vaekit_loop(trainer: Trainer) -> Contender:
    """Return vaekit's loop, without the validation, pictures and checkpoints at the end of an epoch."""

    def epoch() -> None:
        trainer.train_epoch()
        trainer.position = Position(trainer.position.epoch + 1)

    vae = trainer.step.objective.vae
    return contender(epoch, trainer.step.optimizers[0], vae.encoder, vae.decoder)


def pythae_model(encoder: nn.Module, decoder: nn.Module) -> Any:
    """Return a pythae VAE with given networks."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            mu, logvar = self.network(x).unbind(1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    return VAE(VAEConfig(input_dim=(1, 28, 28), reconstruction_loss="bce"), Encoder(), Decoder())


def pythae_loop(images: Tensor, folder: Path, seed: int, given: Given | None) -> Contender:
    """Return the loop of pythae's `BaseTrainer` over its `BaseDataset` of float images.

    Its own model is that of its README: 784-512-10, AdamW with weight decay, batches of 200. There, two workers load the data,
    which is slower than none, and the loss is its squared error; here it is its cross-entropy.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    if given is None:
        model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=10, reconstruction_loss="bce"))
        how: dict[str, Any] = {"learning_rate": 1e-3, "per_device_train_batch_size": 200, "optimizer_cls": "AdamW"}
        how |= {"optimizer_params": {"weight_decay": 0.05, "betas": (0.91, 0.995)}}
    else:
        model = pythae_model(given.encoder, given.decoder)
        how = {"learning_rate": given.lr, "per_device_train_batch_size": given.batch}
    on_gpu = given is not None and next(given.encoder.parameters()).is_cuda
    config = BaseTrainerConfig(output_dir=str(folder), num_epochs=1, seed=seed, no_cuda=not on_gpu, **how)
    trainer = BaseTrainer(model, BaseDataset(floats(images.cpu()), torch.zeros(len(images))), training_config=config)
    trainer.prepare_training()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        found = model.encoder(x)
        return found.embedding, found.log_covariance

    return Contender(lambda: trainer.train_step(1), trainer.optimizer, encode, lambda z: model.decoder(z).reconstruction)


def autoencoders_loop(images: Tensor, folder: Path, seed: int, given: Given | None) -> Contender:
    """Return the loop of the `VAETrainer` of `autoencoders`, which prints a line at each step.

    Its losses are the squared and the absolute error, averaged over pixels; given networks are trained with a `compute_loss`
    that sums the cross-entropy, and without its free bits. Its own model is that of its README, for vectors, with its loss:
    784-64-32-16, KL weight 0.1 reached over 20 epochs, batches of 256.
    """
    from autoencoders import TrainingConfig, VAETrainer, VariationalAutoencoderConfig, VariationalAutoencoderModel
    from autoencoders.data.base import TensorSpec

    class Bernoulli(VariationalAutoencoderModel):
        def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            mu, logvar = self.encoder(inputs).unbind(1)
            return mu, logvar

        def compute_loss(self, reconstruction: Tensor, targets: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(reconstruction, targets, reduction="sum") / len(targets)

    x = floats(images)
    if given is None:
        x = x.flatten(1)
        model = VariationalAutoencoderModel(
            config=VariationalAutoencoderConfig(latent_dim=16, kl_weight=0.1, free_bits=0.02, kl_warmup_epochs=20),
            sample_spec=TensorSpec(shape=(784,)),
            encoder="mlp",
            encoder_config={"hidden_dims": [64, 32], "activation": "relu", "use_bias": True},
            decoder="mlp",
            decoder_config={"hidden_dims": [64, 784], "activation": "relu", "use_bias": True},
        )
        how: dict[str, Any] = {}
    else:
        latent_dim = given.encoder(x[:1]).shape[-1]
        config = VariationalAutoencoderConfig(latent_dim=latent_dim, free_bits=0.0)
        shape = TensorSpec(shape=tuple(x.shape[1:]))
        model = Bernoulli(config=config, sample_spec=shape, encoder=given.encoder, decoder=given.decoder)
        how = {"learning_rate": given.lr, "batch_size": given.batch}
    settings = TrainingConfig(output_dir=str(folder), device="cpu", seed=seed, **how)
    trainer = VAETrainer(model, settings)
    loader: DataLoader[Tensor] = DataLoader(x, batch_size=settings.batch_size, shuffle=True)  # type: ignore[arg-type]

    def epoch() -> None:
        trainer.on_epoch_start(trainer.current_epoch + 1)
        trainer.train_epoch(loader)

    if given is not None:
        return contender(epoch, trainer.optimizer, given.encoder, given.decoder)
    return Contender(epoch, trainer.optimizer, lambda x: model.encode(x.flatten(1)), model.decode)


class Pictures(Dataset[Tensor]):
    """Bytes that are converted to a picture and then to a tensor, image by image, as in torchvision's MNIST."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.transform = images, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.fromarray(self.images[index].numpy()))
        return image


def example_loop(images: Tensor, folder: Path, seed: int, given: Given | None) -> Contender:
    """Return the loop of PyTorch's `vae` example, written again from its description.

    Images stored as bytes are converted to pictures and then to tensors one by one, Adam is not fused, and the loss is read at
    each step.
    """
    del folder, seed
    encoder, decoder, batch, lr = given or example_networks()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)
    loader = DataLoader(Pictures(images[:, 0]), batch_size=batch, shuffle=True)

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

    return contender(epoch, optimizer, encoder, decoder)


def lightning_loop(images: Tensor, folder: Path, seed: int, given: Given | None) -> Contender:
    """Return the loop of Lightning's `Trainer` over a `TensorDataset` of float images.

    Given networks are trained without logger, checkpoints and progress bar. Lightning has no VAE: its own model is that of
    PyTorch's example, trained with the defaults of its `Trainer`, which are these three, and with the loss logged.
    """
    from lightning import LightningModule
    from lightning import Trainer as LightningTrainer

    del seed
    encoder, decoder, batch, lr = given or example_networks()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)

    class VAE(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder, decoder

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            del number
            loss = negative_elbo(self.encoder, self.decoder, batch[0])
            if given is None:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    model = VAE()
    loader = DataLoader(TensorDataset(floats(images)), batch_size=batch, shuffle=True)
    without = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    how = {} if given is None else dict.fromkeys(without, False)

    def epoch() -> None:
        LightningTrainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **how).fit(model, loader)

    return contender(epoch, optimizer, encoder, decoder)


def keras_loop(images: Tensor, folder: Path, seed: int, given: Given | None) -> Contender:
    """Return the loop of `fit` of Keras 3 on its torch backend, with a layer that samples and adds the KL.

    Given networks are wrapped as layers by `TorchModuleWrapper`, which is 5 % faster than the same network of `Dense` layers.
    Its own model is that of its site: convolutions with 32 and 64 channels, 2 latents.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported
    import keras
    from keras import layers, ops

    del folder
    keras.utils.set_random_seed(seed)

    class Sampling(layers.Layer):
        def call(self, parameters: Any) -> Any:
            mu, logvar = parameters[:, 0], parameters[:, 1]
            self.add_loss(ops.mean(0.5 * ops.sum(mu**2 + ops.exp(logvar) - 1 - logvar, axis=1)))
            return mu + ops.exp(0.5 * logvar) * keras.random.normal(ops.shape(mu))

    def cross_entropy(x: Any, outputs: Any) -> Any:
        return ops.sum(ops.binary_crossentropy(x, outputs, from_logits=given is not None), axis=(1, 2, 3))

    x = floats(images).numpy()
    if given is None:
        conv = {"kernel_size": 3, "activation": "relu", "strides": 2, "padding": "same"}
        encoder: list[Any] = [layers.Conv2D(32, **conv), layers.Conv2D(64, **conv), layers.Flatten(), layers.Dense(16, "relu")]
        encoder += [layers.Dense(4), layers.Reshape((2, 2))]
        decoder: list[Any] = [layers.Dense(7 * 7 * 64, "relu"), layers.Reshape((7, 7, 64))]
        decoder += [layers.Conv2DTranspose(64, **conv), layers.Conv2DTranspose(32, **conv)]
        decoder += [layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")]
        x, batch, lr = x.transpose(0, 2, 3, 1), 128, 1e-3
    else:
        modules, batch, lr = (given.encoder, given.decoder), given.batch, given.lr
        code = given.encoder(torch.zeros(1, *x.shape[1:])).shape[1:]
        shapes = (None, *code), (None, *x.shape[1:])
        wrapped = (layers.TorchModuleWrapper(module, output_shape=shape) for module, shape in zip(modules, shapes, strict=True))
        encoder, decoder = ([layer] for layer in wrapped)
    network, generator = keras.Sequential([keras.Input(x.shape[1:]), *encoder]), keras.Sequential(decoder)
    model = keras.Model(network.inputs, generator(Sampling()(network.outputs[0])))
    model.compile(optimizer=keras.optimizers.Adam(lr), loss=cross_entropy)

    def epoch() -> None:
        model.fit(x, x, batch_size=batch, epochs=1, verbose=0)

    if given is not None:
        return contender(epoch, model.optimizer, given.encoder, given.decoder)
    return Contender(epoch, model.optimizer, lambda x: network(x.movedim(1, -1)).unbind(1), lambda z: generator(z).movedim(-1, 1))


PEERS: dict[str, Callable[[Tensor, Path, int, Given | None], Contender]] = {
    "pythae": pythae_loop,
    "autoencoders": autoencoders_loop,
    "pytorch example": example_loop,
    "lightning": lightning_loop,
    "keras": keras_loop,
}
"""Loops by name, on images, with a folder for their files, a seed, and networks to train; if None, the loop's own model."""
