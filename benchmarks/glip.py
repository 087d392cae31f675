"""GLIP's inference: seconds and share by part, against a straightforward fusion and deformable convolution.

The straightforward fusion projects every place of the pyramid, as the original does; the straightforward convolution is
torchvision's kernel. Both ways run in turns in this process, on the same picture and text, and must agree. With
``--prompts`` more than one, that many texts ask one picture, which is encoded once.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from wordregion.models.detect import detect
from wordregion.models.grounder import Grounder
from wordregion.models.zoo import glip_tiny, glip_tiny_a
from wordregion.nn.anchor_head import Grounded
from wordregion.nn.deep_fusion import CLAMP, DeepFusion

BUILDERS: dict[str, Callable[..., Grounder]] = {"tiny": glip_tiny, "tiny_a": glip_tiny_a}


def project_everything(fusion: DeepFusion, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (fusion.heads, -1)).transpose(1, 2)

    query, key = heads(fusion.image_query(image)), heads(fusion.text_key(text))
    scores = ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).clamp(-CLAMP, CLAMP)
    to_text = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    to_image = scores.transpose(-1, -2).softmax(-1)
    seen = (to_text @ heads(fusion.text_value(text))).transpose(1, 2).flatten(2)
    told = (to_image @ heads(fusion.image_value(image))).transpose(1, 2).flatten(2)
    return fusion.image_out(seen), fusion.text_out(told)


def torchvisions(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    return deform_conv2d(x, offset, weight, bias, stride, padding=1, mask=mask)


@contextmanager
def straightforward() -> Iterator[None]:
    with (
        patch.object(DeepFusion, "attend", project_everything),
        patch("wordregion.nn.dyhead.deform_conv", torchvisions),
    ):
        yield


def watch(model: Grounder, spent: dict[str, float]) -> None:
    """Adds up the seconds of each part."""
    parts: dict[str, list[Any]] = {"Swin and FPN": [model.vision, model.pyramid], "BERT": [model.text]}
    parts["fusion"] = [layer.fusion for layer in model.tower if layer.fusion is not None]
    parts["text layers"] = [layer.text for layer in model.tower if layer.text is not None]
    parts["DyConv"] = [layer.conv for layer in model.tower]
    parts["head"] = [model.head]
    for name, modules in parts.items():
        for module in modules:
            begun: list[float] = []
            module.register_forward_pre_hook(lambda m, given, begun=begun: begun.append(time.perf_counter()))
            module.register_forward_hook(
                lambda m, given, out, name=name, begun=begun: spent.__setitem__(
                    name, spent[name] + time.perf_counter() - begun.pop()
                )
            )


@torch.inference_mode()
def once(model: Grounder, image: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Grounded, float]:
    start = time.perf_counter()
    found = model(image, ids, mask, torch.zeros(len(ids), dtype=torch.long))
    detect(found, [labels] * len(ids), [(image.shape[2], image.shape[3])] * len(ids))
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="glip", description=__doc__)
    parser.add_argument("--model", choices=list(BUILDERS), default="tiny")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width")
    parser.add_argument("--tokens", type=int, default=256, help="length of the padded text")
    parser.add_argument("--words", type=int, default=200, help="real tokens of it")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = BUILDERS[given.model](vision_weights=False, text_weights=False).eval()
    with torch.no_grad():  # of a fresh DyConv all taps lie on the grid: move them
        for layer in model.tower:
            torch.nn.init.normal_(layer.conv.move.weight, std=0.02)
    image = torch.randn(1, 3, *given.size)
    ids = torch.randint(1000, 30000, (given.prompts, given.tokens))
    mask = torch.arange(given.tokens).expand(given.prompts, -1) < given.words
    labels = torch.eye(given.tokens, dtype=torch.bool)[1 : given.words - 1 : 4]
    spent: dict[str, float] = defaultdict(float)
    watch(model, spent)
    ours, theirs = once(model, image, ids, mask, labels)[0], None
    with straightforward():
        theirs = once(model, image, ids, mask, labels)[0]
    apart = float((ours.logits - theirs.logits).abs().max())
    parts: dict[str, list[dict[str, float]]] = {"ours": [], "straightforward": []}
    for _ in range(given.repeats):
        for way in parts:
            spent.clear()
            if way == "ours":
                total = once(model, image, ids, mask, labels)[1]
            else:
                with straightforward():
                    total = once(model, image, ids, mask, labels)[1]
            rest = total - sum(spent.values())
            parts[way].append({**spent, "boxes and rest": rest, "all": total})
    height, width = given.size
    print(
        f"glip_{given.model}, {height} x {width}, {given.prompts} x {given.words} of {given.tokens} tokens, "
        f"{torch.get_num_threads()} threads, median of {given.repeats}; logits differ by {apart:.1e} at most"
    )
    print(f"{'part':16} {'ours s':>8} {'share':>6} {'straightforward s':>18} {'share':>6}")
    median = {
        way: {name: statistics.median(run.get(name, 0.0) for run in runs) for name in runs[0]}
        for way, runs in parts.items()
    }
    for name, seconds in median["ours"].items():
        other = median["straightforward"][name]
        share = [100 * part / median[way]["all"] for way, part in (("ours", seconds), ("straightforward", other))]
        print(f"{name:16} {seconds:8.3f} {share[0]:5.0f}% {other:18.3f} {share[1]:5.0f}%")


if __name__ == "__main__":
    main()
