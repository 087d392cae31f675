"""timm backbones as sequences of tokens.

Shape letters: B images, N tokens (the first is the summary), D width, H and W pixels, C channels and S side of a map,
F width before `components`.
"""

from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wordregion.errors import UsageError
from wordregion.nn.weights import load_backbone, read_weights

Weights = bool | str | Path | tuple[str | Path, ...]
RESNET = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
"""The parts of timm's ResNet in the order in which they run."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class TimmVision(nn.Module):
    """Any timm backbone as tokens: one summary token, then the grid in row-major order.

    A ViT keeps its [CLS]; for backbones without one (Swin, CNNs) the summary is the mean of the grid tokens.
    Batch normalisation runs on its stored statistics, so that an image's encoding never depends on its batch.

    Args:
        name: timm architecture, for example ``"vit_base_patch16_224"``; several CNNs with "+" between them see the
            same pixels, and their channels are laid side by side.
        image_size: side of the square input in pixels.
        weights: True = timm's published weights from the hub; a path = a local ``.safetensors`` / ``.pth`` file in
            timm's layout, of several CNNs a path each; False = random initialisation.
        drop_path: stochastic depth rate in [0, 1) at the last block.
        settings: further architecture settings of timm, for example ``{"embed_dim": 192, "depth": 4}``.
        subsample_first: a ResNet whose stages subsample in their first 1x1 convolution (He et al. 2016, Keras) instead
            of the 3x3 as in timm; the weights decide which. Of several backbones, the ResNets.
        fold_norms: a CNN's batch norms become part of its convolutions: the same function with fewer operations, for an
            encoder that stays frozen.
        components: an image becomes two tokens, this many principal components of its summary and as many zeros, the
            mean image (see `wordregion.models.components`); None = all tokens, at full width.

    Raises:
        CheckpointError: if a weight file is missing, damaged or lacks a part of the backbone.
        UsageError: if one of several backbones is no CNN, their maps differ in size, paths are too few or many, or
            there is no ResNet to subsample first, or its normalisation can't be folded.

    Attributes:
        width: D.
        grid: tokens along a side; 0 with `components`.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        weights: Weights = False,
        drop_path: float = 0.0,
        settings: dict[str, Any] | None = None,
        subsample_first: bool = False,
        fold_norms: bool = False,
        components: int | None = None,
    ) -> None:
        super().__init__()
        arguments: dict[str, Any] = dict(settings or {})
        if name.startswith(("vit_", "deit", "swin", "beit", "eva")):
            arguments["img_size"] = image_size
        body: Any = _open_side_by_side(name, weights, drop_path, arguments, subsample_first)
        if fold_norms:
            drawn = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
            fold_batch_norms(body, drawn, name)
        self.body: Any = body
        self.name, self.drop_path, self.settings = name, drop_path, settings or {}
        self.subsample_first, self.fold_norms = subsample_first, fold_norms
        self.image_size = image_size
        self.components: nn.Linear | None = None
        self.prefix_tokens = int(getattr(body, "num_prefix_tokens", 0))
        self.channels_last = _channels_last(body)
        with torch.no_grad():
            features = self.body.eval().forward_features(torch.zeros(1, 3, image_size, image_size))
            tokens = self.tokens_of(features)
        self.convolutional = features.ndim == 4 and not self.channels_last
        if self.convolutional:  # CPUs and GPUs convolve faster with the channels innermost
            self.body.to(memory_format=torch.channels_last)
        self.width = tokens.shape[-1]
        self.grid = round((tokens.shape[1] - 1) ** 0.5)
        if components is not None:
            self.summarise(nn.Linear(self.width, components))
        self.train()

    def summarise(self, components: nn.Linear) -> None:
        """From now on an image is two tokens: what this map makes of its summary, and zeros, which show nothing."""
        self.components, self.width, self.grid = components, components.out_features, 0

    def train(self, mode: bool = True) -> "TimmVision":
        """Switches dropout and drop path; batch normalisation keeps to its stored statistics."""
        super().train(mode)
        keep_statistics(self.body)
        return self

    def forward(self, image_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Encodes normalised pixels; position 0 of the result is the summary token."""
        return self.seen(self.whole(image_B3HW))

    def whole(self, image_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N F"]:
        """All tokens of normalised pixels at full width (F), with `components` too."""
        if self.convolutional:
            image_B3HW = image_B3HW.contiguous(memory_format=torch.channels_last)
        return self.tokens_of(self.body.forward_features(image_B3HW))

    def seen(self, whole_BNF: Float[Tensor, "B N F"]) -> Float[Tensor, "B _ D"]:
        """What `forward` returns, out of what `whole` returned."""
        if self.components is None:
            return whole_BNF
        with torch.autocast(whole_BNF.device.type, enabled=False):  # differences of large numbers
            seen = self.components(whole_BNF[:, :1].float())
        return torch.cat([seen, torch.zeros_like(seen)], dim=1)

    @property
    def full_width(self) -> int:
        """F."""
        return self.width if self.components is None else self.components.in_features

    def frozen_stages(self) -> list[nn.Module]:
        """The parts of a ResNet that run before the first trained one; none of another backbone."""
        return list(takewhile(lambda part: not any(p.requires_grad for p in part.parameters()), self._stages()))

    def lower(self, image_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C S S"]:
        """What `frozen_stages` make of normalised pixels; `upper` goes on from there to what `forward` returns."""
        x = image_B3HW.contiguous(memory_format=torch.channels_last)
        for part in self.frozen_stages():
            x = part(x)
        return x

    def upper(self, map_BCSS: Float[Tensor, "B C S S"]) -> Float[Tensor, "B N D"]:
        """Tokens out of what `lower` returned."""
        x = map_BCSS.contiguous(memory_format=torch.channels_last)
        for part in self._stages()[len(self.frozen_stages()) :]:
            x = part(x)
        return self.seen(self.tokens_of(x))

    def _stages(self) -> list[nn.Module]:
        return [getattr(self.body, name) for name in RESNET] if isinstance(self.body, ResNet) else []

    def tokens_of(self, features: Tensor) -> Float[Tensor, "B N F"]:
        """Finished features of the backbone, in its own form, as `whole` returns them."""
        if features.ndim == 4:
            features = features if self.channels_last else features.permute(0, 2, 3, 1)
            features = features.flatten(1, 2)
        if self.prefix_tokens == 0:
            features = torch.cat([features.mean(1, keepdim=True), features], dim=1)
        elif self.prefix_tokens > 1:  # distillation or register tokens are not part of the grid
            features = torch.cat([features[:, :1], features[:, self.prefix_tokens :]], dim=1)
        return features

    def blocks(self) -> list[nn.Module]:
        """The repeated parts: units of sharding, compilation and activation checkpointing."""
        return backbone_blocks(self.body)


def backbone_blocks(body: nn.Module) -> list[nn.Module]:
    """The repeated parts of a timm model, each called by its forward: not a list of stages, which timm may walk."""
    if isinstance(body, SideBySide):
        return [block for part in body for block in backbone_blocks(part)]
    for name in ("blocks", "layers", "stages"):
        if isinstance(found := getattr(body, name, None), nn.Module):
            return list(found.children())
    return [child for child in body.children() if any(True for _ in child.parameters())]


class SideBySide(nn.ModuleList):
    """CNNs that see the same pixels; their channels follow each other, so their maps have to be of one size."""

    def forward_features(self, image_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C S S"]:
        """The channels of all.

        Raises:
            UsageError: if one gives something else than a map, or a map of another size.
        """
        maps = [body.forward_features(image_B3HW) for body in self]  # type: ignore[operator]
        if any(found.ndim != 4 or found.shape[2:] != maps[0].shape[2:] for found in maps):
            shapes = ", ".join(str(tuple(found.shape[1:])) for found in maps)
            raise UsageError(f"backbones side by side give {shapes}. Choose CNNs whose maps have the same sides.")
        return torch.cat(maps, dim=1)


def _open_side_by_side(
    name: str, weights: Weights, drop_path: float, settings: dict[str, Any], subsample_first: bool
) -> nn.Module:
    """One backbone, or several side by side; the arguments are those of `TimmVision`."""
    names = name.split("+")
    several = weights if isinstance(weights, tuple) else (weights,) * len(names)
    if len(several) != len(names):
        raise UsageError(f"{name}: {len(several)} weight files for {len(names)} backbones. Give one for each.")
    bodies = [open_backbone(one, found, drop_path, settings) for one, found in zip(names, several, strict=True)]
    resnets = [body for body in bodies if isinstance(body, ResNet)]
    if subsample_first and not resnets:
        raise UsageError(f"{name}: subsample_first is for a ResNet of timm. Leave it out.")
    if subsample_first:
        for body in resnets:
            _subsample_first(body)
    if len(bodies) == 1:
        return bodies[0]
    if any(_channels_last(body) for body in bodies):
        raise UsageError(f"{name}: a Swin can't stand beside another backbone. Choose CNNs.")
    return SideBySide(bodies)


def open_backbone(
    name: str,
    weights: bool | str | Path,
    drop_path: float,
    settings: dict[str, Any],
    subsample_first: bool = False,
) -> nn.Module:
    """A timm model without its classifier; the arguments are those of `TimmVision`, for one backbone."""
    arguments = settings | ({"drop_path_rate": drop_path} if drop_path else {})
    body: Any = timm.create_model(name, pretrained=weights is True, num_classes=0, global_pool="", **arguments)
    if isinstance(weights, (str, Path)):
        load_backbone(body, read_weights(weights), source=str(weights), ignore=("head.", "fc.", "classifier."))
    if subsample_first:
        _subsample_first(body)
    return body


def _subsample_first(resnet: Any) -> None:
    for first, *_ in (resnet.layer2, resnet.layer3, resnet.layer4):
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride


def _channels_last(body: nn.Module) -> bool:
    return getattr(body, "output_fmt", "NCHW") == "NHWC"


@torch.no_grad()
def fold_batch_norms(body: Any, image_13HW: Float[Tensor, "1 3 H W"], name: str) -> None:
    """Makes every batch norm part of the convolution before it, in place; their activations stay.

    Args:
        body: a timm model, or several side by side.
        image_13HW: to compare what the model makes of it before and after.
        name: of the architecture, for the error.

    Raises:
        UsageError: if the model has no batch norms, or they don't all follow convolutions.
    """
    refusal = UsageError(f"{name}: fold_norms is for CNNs whose batch norms follow convolutions. Leave it out.")
    before = body.eval().forward_features(image_13HW)
    parts = [(path, part) for path, part in body.named_modules() if isinstance(part, (nn.Conv2d, BATCH_NORM))]
    pairs = [(conv, path, norm) for (_, conv), (path, norm) in pairwise(parts) if isinstance(norm, BATCH_NORM)]
    for conv, path, norm in pairs:
        if not isinstance(conv, nn.Conv2d) or conv.out_channels != norm.num_features:
            raise refusal
        mean, var = norm.running_mean, norm.running_var
        if mean is None or var is None:
            raise refusal
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        body.set_submodule(path, getattr(norm, "act", nn.Identity()))
    after = body.forward_features(image_13HW)
    if not pairs or not torch.allclose(after, before, rtol=1e-3, atol=1e-3 * float(before.std())):
        raise refusal


def keep_statistics(body: nn.Module) -> None:
    """Makes batch normalisation use its stored statistics."""
    for part in body.modules():
        if isinstance(part, BATCH_NORM):
            part.eval()
