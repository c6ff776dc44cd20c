"""Feature networks compared with direct computations from their weights, and their weights files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from small import random_weights
from torch.nn import functional as F

from vaekit.errors import DataError, UsageError
from vaekit.nn.features import ARCHITECTURES, FeatureDistance, FeatureNetwork, NetworkName, sha256_of

NAMES: list[NetworkName] = ["efficientnet_lite0", "squeezenet1_1", "alexnet", "vgg16"]
SMALL: NetworkName = "squeezenet1_1"
TORCHVISION = {"squeezenet1_1": (1, 4, 7, 9, 10, 11, 12), "alexnet": (1, 4, 7, 9, 11), "vgg16": (3, 8, 15, 22, 29)}
"""The indices of the layers in torchvision's ``features``, as in the package lpips."""


def network(name: NetworkName = SMALL, side: int = 40, **options: Any) -> FeatureNetwork:
    return FeatureNetwork(name, random_weights(name), (3, side, side), **options)


def images(side: int = 40, channels: int = 3, num: int = 3) -> torch.Tensor:
    return torch.rand(num, channels, side, side, generator=torch.Generator().manual_seed(0))


def efficientnet(weights: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the output of each block and of the head, computed directly from a state dict."""

    def convolved(x: torch.Tensor, conv: str, norm: str, stride: int = 1, *, relu: bool = True) -> torch.Tensor:
        kernel = weights[f"{conv}.weight"]
        size, height = kernel.shape[-1], x.shape[-1]
        total = max((-(-height // stride) - 1) * stride + size - height, 0)  # TensorFlow's SAME
        x = F.pad(x, 2 * [total // 2, total - total // 2])
        x = F.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])
        mean, variance, scale, shift = (
            weights[f"{norm}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-3).sqrt() * scale + shift
        return x.clamp(0, 6) if relu else x

    x = convolved((255 * x - 127) / 128, "_conv_stem", "_bn0", 2)
    outputs = []
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for number, stride in enumerate(strides):
        block = f"_blocks.{number}"
        inner = convolved(x, f"{block}._expand_conv", f"{block}._bn0") if number else x
        inner = convolved(inner, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        y = convolved(inner, f"{block}._project_conv", f"{block}._bn2", relu=False)
        x = x + y if stride == 1 and y.shape == x.shape else y
        outputs.append(x)
    return outputs, convolved(x, "_conv_head", "_bn1")


@pytest.mark.parametrize("side", [1, 5, 40])
def test_efficientnet_lite0_matches_its_formulae(side: int) -> None:
    net = network("efficientnet_lite0", side).double()
    weights = {name: tensor.double() for name, tensor in load_file(random_weights("efficientnet_lite0")).items()}
    x = images(side).double()
    blocks, head = efficientnet(weights, x)
    for features, block in zip(net(x), [0, 2, 4, 10, 15], strict=True):
        torch.testing.assert_close(features, blocks[block], rtol=1e-5, atol=1e-5)  # the folded weights are in single precision
        assert features.abs().max() > 1e-3
    torch.testing.assert_close(net.pooled(x), head.mean((-2, -1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_layers_match_torchvision(name: NetworkName) -> None:
    with torch.device("meta"):
        reference = getattr(torchvision.models, name)().features.eval()
    weights = {key.removeprefix("features."): tensor.double() for key, tensor in load_file(random_weights(name)).items()}
    reference.load_state_dict(weights, assign=True)
    x, net = images().double(), network(name).double()
    mean, std = (torch.tensor(each).view(3, 1, 1).double() for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features, expected = (x - mean) / std, []
    with torch.no_grad():
        for number, layer in enumerate(reference[: TORCHVISION[name][-1] + 1]):
            features = layer(features)
            expected += [features.clone()] if number in TORCHVISION[name] else []  # the next ReLU may be in place
    for one, other in zip(net(x), expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.std() > 1e-3
    torch.testing.assert_close(net.pooled(x), expected[-1].mean((-2, -1)))


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_images_have_features_and_smaller_ones_are_refused(name: NetworkName) -> None:
    smallest = ARCHITECTURES[name].smallest
    assert network(name, smallest).pooled(images(smallest)).isfinite().all()
    if smallest > 1:
        with pytest.raises(UsageError, match=f"at least {smallest}×{smallest} pixels"):
            network(name, smallest - 1)
        with pytest.raises(RuntimeError):  # it is indeed the smallest
            network(name, smallest)(images(smallest - 1))


@pytest.mark.parametrize("shape", [(2, 40, 40), (3, 40), (3, 40, 40, 40)])
def test_images_other_than_grey_and_rgb_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="grey or RGB"):
        FeatureNetwork(SMALL, random_weights(SMALL), shape)


def test_grey_images_are_repeated_in_three_channels() -> None:
    grey = images(channels=1)
    for one, other in zip(network()(grey), network()(grey.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["efficientnet_lite0", SMALL])
def test_weights_are_neither_trained_nor_saved_and_move_with_the_module(name: NetworkName) -> None:
    net = network(name).train()
    assert not any(module.training for module in net.modules())
    assert not list(net.parameters())
    assert not net.state_dict()
    assert sum(buffer.numel() for buffer in net.buffers()) > 700_000
    assert net.double().pooled(images().double()).dtype == torch.float64
    assert not any(buffer.requires_grad for buffer in net.buffers())


def linear(name: NetworkName = SMALL, file: Path | None = None) -> dict[str, torch.Tensor]:
    """Return random linear weights for a network, and write them to a file."""
    widths = [features.shape[1] for features in network(name)(images())]
    generator = torch.Generator().manual_seed(0)
    weights = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in enumerate(widths)}
    if file is not None:
        torch.save(weights, file)
    return weights


def test_without_linear_weights_the_distance_is_twice_one_minus_the_cosine() -> None:
    x, y = images(), 1 - images()
    net = network()
    cosines = [
        F.cosine_similarity(one, other, dim=1, eps=1e-12).mean((-2, -1)) for one, other in zip(net(x), net(y), strict=True)
    ]
    torch.testing.assert_close(FeatureDistance(net)(x, y), torch.stack([2 - 2 * cosine for cosine in cosines]).mean(0))
    assert FeatureDistance(net)(x, x).abs().max() == 0
    assert FeatureDistance(net)(x, y).min() > 0.01


def test_with_linear_weights_the_distance_matches_the_paper(tmp_path: Path) -> None:
    weights = linear(file=tmp_path / "squeeze.pth")
    x, y = images(), 1 - images()
    net = network()
    expected = torch.zeros(len(x))
    for one, other, weight in zip(net(x), net(y), weights.values(), strict=True):
        difference = F.normalize(one, dim=1, eps=1e-10) - F.normalize(other, dim=1, eps=1e-10)
        expected += (weight[0, :, 0, 0] @ difference.square().flatten(2).mean(-1).T).flatten()
    torch.testing.assert_close(FeatureDistance(net, tmp_path / "squeeze.pth")(x, y), expected)


def test_features_of_0_have_distance_0_and_a_finite_gradient(tmp_path: Path) -> None:
    dead = {name: torch.zeros_like(tensor) for name, tensor in load_file(random_weights(SMALL)).items()}
    save_file(dead, tmp_path / "dead.safetensors")
    x = images().requires_grad_()
    distance = FeatureDistance(FeatureNetwork(SMALL, tmp_path / "dead.safetensors", (3, 40, 40)))(x, images())
    distance.sum().backward()
    assert distance.abs().max() == 0
    assert x.grad is not None
    assert x.grad.abs().max() == 0


def test_a_file_of_torchvision_is_read_with_its_classifier_and_without(tmp_path: Path) -> None:
    whole = getattr(torchvision.models, SMALL)().state_dict()
    torch.save(whole, tmp_path / "whole.pth")
    save_file({name: tensor for name, tensor in whole.items() if "classifier" not in name}, tmp_path / "part.safetensors")
    one, other = (FeatureNetwork(SMALL, tmp_path / name, (3, 40, 40)) for name in ("whole.pth", "part.safetensors"))
    assert torch.equal(one.pooled(images()), other.pooled(images()))


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist[\s\S]*absent.pth"):
        FeatureNetwork(SMALL, tmp_path / "absent.pth", (3, 40, 40))


def test_a_file_of_another_network_is_refused_with_the_names_that_differ() -> None:
    with pytest.raises(DataError) as caught:
        FeatureNetwork(SMALL, random_weights("alexnet"), (3, 40, 40))
    assert "does not contain the weights of squeezenet1_1" in str(caught.value)
    assert "missing: features.3.squeeze.weight" in str(caught.value)
    assert re.search("unknown: features.10.bias", str(caught.value))
    assert "of another shape: features.0.weight" in str(caught.value)


def test_linear_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    linear("alexnet", tmp_path / "alex.pth")
    with pytest.raises(DataError, match="linear weights of LPIPS for squeezenet1_1"):
        FeatureDistance(network(), tmp_path / "alex.pth")


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    file = random_weights(SMALL)
    network(sha256=sha256_of(file))
    with pytest.raises(DataError, match="another file") as caught:
        network(sha256=sha256_of(random_weights("alexnet")))
    assert sha256_of(file) in str(caught.value)


class Evil:
    """An object that runs a function when unpickled without restrictions."""

    def __reduce__(self) -> Any:
        return print, ("unpickled",)


@pytest.mark.parametrize("content", ["pickled code", "a list", "rubbish", "half a file"])
def test_other_files_are_refused_and_run_no_code(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ("weights.safetensors" if content == "half a file" else "weights.pth")
    if content == "pickled code":
        torch.save({"features.0.weight": Evil()}, file)
    elif content == "a list":
        torch.save([torch.zeros(1)], file)
    else:
        file.write_bytes(b"rubbish" if content == "rubbish" else Path(random_weights(SMALL)).read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        FeatureNetwork(SMALL, file, (3, 40, 40))
    assert "unpickled" not in capsys.readouterr().out
