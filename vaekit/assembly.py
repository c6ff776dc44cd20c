"""From a spec to networks and an objective. Whether the parts fit is checked here, before any data is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vaekit import graphs, registry
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Dataset, Likelihood, Loss, Posterior, Prior, Shape
from vaekit.objective import Inputs, Objective, Player, Reconstruction
from vaekit.schema import ComponentSpec
from vaekit.specs import ModelSpec, RunSpec, TrainSpec
from vaekit.streams import derive_seed
from vaekit.vae import VAE


def resolve(spec: RunSpec) -> RunSpec:
    """Return the spec with every default that depends on another choice filled in; resolving twice changes nothing.

    The decoder is of the encoder's kind, or ``cnn`` where no decoder has that name; likelihood and binarisation are those of
    the data set (continuous likelihoods take grey pixels); ``kl`` is added where nothing covers the divergence.

    Raises:
        UsageError: The chosen components do not fit together, or a logger's library is not installed; the message says which,
            why, and what would help.
    """
    model, data = spec.model, spec.data
    dataset: type[Dataset] = registry.datasets.get(data.dataset.kind)
    decoder = model.decoder
    if decoder is None:
        decoder = _spec(registry.decoders, default_decoder(model.encoder.kind))
    likelihood = model.likelihood or _spec(registry.likelihoods, dataset.default_likelihood)
    continuous = registry.likelihoods.get(likelihood.kind).continuous
    binarize = data.binarize or ("none" if continuous else dataset.default_binarize)

    posterior = registry.posteriors.get(model.posterior.kind)
    losses = model.loss
    built = [registry.losses.build(loss, latent_dim=model.latent_dim, image_shape=(1, 1, 1)) for loss in losses]
    if not any("divergence" in loss.covers for loss in built) and Capability.LOG_PROB in posterior.provides:
        losses = (*losses, _spec(registry.losses, "kl"))
        built.append(registry.losses.build(losses[-1]))
    _check(model, built, posterior, registry.priors.get(model.prior.kind))
    _check_loggers(spec.train)
    return RunSpec(
        model=model.model_copy(update={"decoder": decoder, "likelihood": likelihood, "loss": losses}),
        data=data.model_copy(update={"binarize": binarize}),
        train=resolve_device(spec.train),
    )


def default_decoder(encoder: str) -> str:
    """Return the kind of decoder that goes with a kind of encoder where none is asked for."""
    return encoder if encoder in registry.decoders else "cnn"


def resolve_device(train: TrainSpec) -> TrainSpec:
    """Replace ``auto`` device, precision and thread count by what this machine offers.

    Raises:
        UsageError: The device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = train.device if train.device != "auto" else next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available.get(device):
        raise UsageError(
            f"this machine offers torch no {device} device",
            given=f"--device {device}, torch {torch.__version__}",
            expected=f"one of {', '.join(d for d, there in available.items() if there)}",
            remedy="--device auto takes the best there is",
        )
    precision = train.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    threads = train.threads or torch.get_num_threads()
    return train.model_copy(update={"device": device, "precision": precision, "threads": threads})


def moved(spec: RunSpec, device: str | None) -> RunSpec:
    """Return a resolved spec for a device of this machine, by default its own; on another, `resolve_compile` chooses anew.

    Raises:
        UsageError: The device is not there.
    """
    train = spec.train if device is None else spec.train.model_copy(update={"device": device, "compile": "auto"})
    return spec.model_copy(update={"train": resolve_device(train)})


COMPILE_SECONDS = 600.0
"""Training on a CPU, by `cpu_seconds`, from which compiling pays; see `resolve_compile`."""
CPU_RATE = 3e10
"""Floating-point operations a second with which a thread of a CPU is reckoned to train."""


def cpu_seconds(vae: VAE, train: TrainSpec, num_images: int) -> float:
    """Estimate how long training takes on a CPU, from the products of matrices in it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae(torch.zeros(1, *vae.image_shape), generator=torch.Generator())
    work = 3 * counter.get_total_flops() * num_images * train.epochs  # a backward pass is about two forward ones
    return float(work) / (CPU_RATE * (train.threads or 1))


def has_convolutions(module: nn.Module) -> bool:
    """Whether there is a two-dimensional convolution in a module, transposed or not."""
    return any(isinstance(each, nn.Conv2d | nn.ConvTranspose2d) for each in module.modules())


def spoils_channels_last(module: nn.Module) -> bool:
    """Whether a module is a strided 1×1 convolution of fewer channels than a vector register holds.

    With channels last, oneDNN writes its gradient past a buffer: wrong gradients, or a crash, for 2 to 7 channels on AVX2; by
    the report (https://github.com/uxlfoundation/oneDNN/issues/6035) to 15 on AVX-512.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    pointwise = max(module.kernel_size) == 1 and max(module.stride) > 1
    return pointwise and module.in_channels // module.groups < 16


def lay_out(module: nn.Module) -> torch.memory_format:
    """Lay the kernels of convolutions out as they are fastest, and return the layout that their images should have.

    With channels last, where oneDNN and cuDNN need not reorder, a step of convolutional models takes 0.73 to 0.98 of its time on
    a CPU; on CUDA it was not measured. Models with a convolution that `spoils_channels_last` keep theirs, and on CUDA those with
    normalisation by groups, which knows the ordinary layout alone there and would reorder before and after.
    """
    cuda = any(parameter.is_cuda for parameter in module.parameters())
    spoilt = any(spoils_channels_last(each) or (cuda and isinstance(each, nn.GroupNorm)) for each in module.modules())
    if spoilt or not has_convolutions(module):
        return torch.contiguous_format
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.empty_like(parameter, memory_format=torch.channels_last).copy_(parameter.data)
    return torch.channels_last


def resolve_compile(spec: RunSpec, image_shape: Shape, num_images: int) -> RunSpec:
    """Replace ``auto`` compilation: on for long runs without convolutions on a CPU that has a C++ compiler.

    Measured on 2 cores: compiling takes 20 to 30 s; then a step of the MLP takes 0.90 of its time, one of the CNN 0.96, and one
    with bilinear upsampling 1.67. So it is chosen for runs of ten minutes and more. On CUDA the step becomes one graph unless
    some component waits for the device; it is not compiled there, and neither is it elsewhere, as nothing was measured.

    Args:
        spec: A resolved spec.
        image_shape: ``(C, H, W)``.
        num_images: Images of an epoch.

    Raises:
        UsageError: Compilation is asked for, and there is no C++ compiler; or of a model divided over processes; or a
            CUDA graph on another device.
    """
    train = spec.train
    if train.compile in ("on", "graph") and train.parallel == "fsdp":
        raise UsageError(
            "a model divided over processes is not compiled",
            given=f"--compile {train.compile} --parallel fsdp",
            remedy="pass --compile off, or --parallel ddp",
        )
    if train.compile == "graph" and train.device not in graphs.DEVICES:
        raise UsageError(
            "only CUDA has graphs",
            given=f"--compile graph --device {train.device}",
            expected="--compile auto, on or off, or --device cuda",
        )
    if train.compile == "on" and not has_cpp_compiler():
        raise UsageError(
            "compiling needs a C++ compiler, and torch finds none",
            given="--compile on",
            remedy="install g++ or clang++, or pass --compile off",
        )
    if train.compile != "auto":
        return spec
    chosen = "off"
    if train.parallel == "ddp":
        vae = build_vae(spec.model, image_shape, seed=train.seed)
        if train.device == "cuda":
            chosen = "off" if _waits(build_objective(spec.model, vae, num_data=num_images).cuda()) else "graph"
        elif train.device == "cpu" and not has_convolutions(vae) and cpu_seconds(vae, train, num_images) > COMPILE_SECONDS:
            chosen = "on" if has_cpp_compiler() else "off"
    return spec.model_copy(update={"train": train.model_copy(update={"compile": chosen})})


def _waits(objective: Objective) -> bool:
    """Whether computing or differentiating an objective waits for the GPU."""
    inputs = trial(objective.vae)

    def step() -> None:
        total, _ = objective(inputs)
        total.backward()

    return graphs.waits(step)


def trial(vae: VAE) -> Inputs:
    """Return inputs to try an objective on: two images with noise and labels, at the beginning of time."""
    x = torch.rand(2, *vae.image_shape, generator=torch.Generator().manual_seed(0)).to(vae.device)
    noise = vae.posterior.draw_noise(2, torch.Generator(vae.device), like=x)
    y = torch.zeros(2, dtype=torch.int64, device=vae.device)
    return Inputs(x, x, noise, torch.zeros((), device=vae.device), y)


def has_cpp_compiler() -> bool:
    """Whether torch.compile finds what it needs to make CPU code."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def build_vae(model: ModelSpec, image_shape: Shape, *, seed: int | None = None) -> VAE:
    """Build the networks of a resolved spec for images of ``(C, H, W)``, on the CPU.

    Args:
        model: A resolved model spec.
        image_shape: ``(C, H, W)``.
        seed: Seed of the initial weights; torch's global generator unless given. It is left as it was.
    """
    if model.decoder is None or model.likelihood is None:
        raise ValueError("the spec is not resolved: call vaekit.assembly.resolve first")
    latent_dim, image_shape = model.latent_dim, tuple(image_shape)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(derive_seed(seed, "initial weights", 0))
        likelihood: Likelihood = registry.likelihoods.build(model.likelihood, image_shape=image_shape)
        posterior: Posterior = registry.posteriors.build(model.posterior, latent_dim=latent_dim)
        prior: Prior = registry.priors.build(model.prior, latent_dim=latent_dim)
        encoder = registry.encoders.build(model.encoder, in_shape=image_shape, out_shape=posterior.param_shape)
        decoder = registry.decoders.build(model.decoder, in_shape=(latent_dim,), out_shape=likelihood.param_shape)
        return VAE(encoder, decoder, posterior=posterior, prior=prior, likelihood=likelihood)


def build_objective(model: ModelSpec, vae: VAE, *, num_data: int | None = None) -> Objective:
    """Build the objective of a resolved spec: one player who moves all of the model, and its losses."""
    losses: dict[str, Loss] = {
        spec.kind: registry.losses.build(spec, latent_dim=vae.latent_dim, image_shape=vae.image_shape) for spec in model.loss
    }
    if not any("reconstruction" in loss.covers for loss in losses.values()):
        losses = {"reconstruction": Reconstruction(), **losses}
    return Objective(vae, [Player("model", losses)], num_data=num_data)


def _check(model: ModelSpec, losses: list[Loss], posterior: type[Posterior], prior: type[Prior]) -> None:
    kinds = [loss.kind for loss in losses]
    for i, loss in enumerate(losses):
        if loss.kind in kinds[:i]:
            raise UsageError(f"the loss {loss.kind!r} is given twice", remedy="keep one of them")
        for other in losses[:i]:
            shared = loss.covers & other.covers
            if shared:
                raise UsageError(
                    f"losses {other.kind!r} and {loss.kind!r} both cover the {' and '.join(sorted(shared))}",
                    remedy="keep one of them",
                )
        for role, cls in (("posterior", posterior), ("prior", prior)):
            missing = loss.requires - cls.provides
            if missing:
                registry_of = registry.posteriors if role == "posterior" else registry.priors
                fit = [k for k in registry_of.kinds() if k != cls.kind and loss.requires <= _provides(registry_of, k)]
                raise UsageError(
                    f"loss {loss.kind!r} needs {', '.join(sorted(missing))}, which the {role} {cls.kind!r} does not provide",
                    given=f"{role} {cls.kind!r} provides {', '.join(sorted(cls.provides)) or 'no density'}",
                    remedy=f"use --{role} {' or '.join(fit)}, or another loss" if fit else "use another loss",
                )


def _check_loggers(train: TrainSpec) -> None:
    kinds = [logger.kind for logger in train.logger]
    for kind in {kind for kind in kinds if kinds.count(kind) > 1}:
        raise UsageError(f"the logger {kind!r} is given twice", remedy="keep one of them")
    for logger in train.logger:
        registry.loggers.build(logger)  # which imports its library


def _provides(components: registry.Registry[Posterior] | registry.Registry[Prior], kind: str) -> frozenset[Capability]:
    try:
        return components.get(kind).provides
    except Exception:  # a broken plugin is no advice
        return frozenset()


def _spec(components: registry.Registry[Any], kind: str) -> ComponentSpec:
    return components.spec(kind).model_validate({})
