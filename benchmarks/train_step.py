"""Seconds, operations and memory of one ALBEF-base pre-training step, against the original's way of computing it.

    python benchmarks/train_step.py                       # fp32, 2 threads, batch 4, 30 tokens, 256 px
    python benchmarks/train_step.py --precision bf16 --curve
    python benchmarks/train_step.py --malloc              # beside our own step without `engine.malloc`

The rival, kept here, is our own writing of how the original program works, on the same weights: attention by matrix
product and softmax; three fusion passes with keys and values per pair; masked-word logits on every token; the teacher
moved by a Python loop that allocates; the queues cloned; the plain optimiser. Both run in processes that take turns.
"""

import argparse
import contextlib
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from common import Turns, counted_flops, matmul_rate, peak_gigabytes, timed
from torch import Tensor

from wordregion.engine.malloc import keep_freed_memory
from wordregion.engine.optim import build as build_optimiser
from wordregion.models.fusion import FusionModel
from wordregion.models.zoo import albef_base
from wordregion.recipes.recipe import AdamW
from wordregion.schema import Batch
from wordregion.tasks.align import Align

CLS, MASK, VOCABULARY = 101, 103, 30522
ORIGINAL, PLAIN_MALLOC = "the original's way, fp32", "wordregion, malloc as it comes"


def make_batch(images: int, tokens: int, pixels: int, seed: int = 0) -> Batch:
    """Random pixels and words; 15 % of the words masked, at least one a text."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, VOCABULARY, (images, tokens), generator=generator)
    ids[:, 0] = CLS
    chosen = torch.rand(images, tokens, generator=generator).argsort(1)
    masked = (chosen < round(0.15 * tokens)) & (torch.arange(tokens) > 0)
    return Batch(
        image=torch.randn(images, 3, pixels, pixels, generator=generator),
        image_key=torch.arange(images) + seed * images,
        token_ids=ids,
        token_mask=torch.ones_like(ids, dtype=torch.bool),
        text_image=torch.arange(images),
        masked_ids=ids.masked_fill(masked, MASK),
        labels=ids.masked_fill(~masked, -100),
    )


class Ours:
    """The library's task."""

    def __init__(self, model: FusionModel, settings: argparse.Namespace) -> None:
        self.task = Align(queue_size=65536, ramp_steps=0).build(model).train()
        self.optimiser = build_optimiser(model, AdamW(lr=1e-4, weight_decay=0.02))
        self.bf16 = settings.precision == "bf16"

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            return self.task(batch, self.task.counts(batch)).loss

    def backward(self, batch: Batch) -> Tensor:
        loss = self.loss(batch)
        loss.backward()
        self.task.after_backward()
        return loss

    def step(self, batch: Batch) -> float:
        loss = self.backward(batch)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.task.after_step()
        return loss.item()


class Original:
    """The same step, computed as the original program does."""

    def __init__(self, model: FusionModel, settings: argparse.Namespace) -> None:
        task = Align(queue_size=65536).build(model).train()
        self.model, self.teacher, self.temperature = model, task.teacher, model.temperature
        self.image_queue, self.text_queue = task.queue.image.T.contiguous(), task.queue.text.T.contiguous()
        self.pointer = 0
        for whole in (self.model, self.teacher):
            whole.text.body.config._attn_implementation = "eager"
            for block in whole.vision.body.blocks:
                block.attn.fused_attn = False
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.02, foreach=False)

    def fuse(self, model: FusionModel, text: Tensor, image: Tensor) -> Tensor:
        """One pass over pairs, each with its own copy of the image tokens."""
        pairs, length, width = text.shape
        for layer in model.fusion.layers:
            own, cross, heads = layer.attention, layer.cross, layer.attention.heads
            p = own.dropout if own.training else 0.0

            def attend(query: Tensor, key: Tensor, value: Tensor, heads: int = heads, p: float = p) -> Tensor:
                q, k, v = (
                    x.view(pairs, x.shape[1], heads, width // heads).transpose(1, 2) for x in (query, key, value)
                )
                weights = ((q @ k.transpose(-1, -2)) / (width // heads) ** 0.5).softmax(-1)
                return (F.dropout(weights, p) @ v).transpose(1, 2).reshape(pairs, length, width)

            attended = attend(*own.qkv(text).chunk(3, -1))
            text = own.norm(text + F.dropout(own.out(attended), p))
            attended = attend(cross.q(text), *cross.kv(image).chunk(2, -1))
            text = cross.norm(text + F.dropout(cross.out(attended), p))
            text = layer.feed_forward(text)
        return text

    def backward(self, batch: Batch) -> Tensor:
        model, teacher, size = self.model, self.teacher, len(batch.image)
        ids, mask, masked = batch.token_ids, batch.token_mask, batch.masked_ids
        assert masked is not None
        assert batch.labels is not None
        image = model.encode_image(batch.image)
        text = model.encode_text(ids, mask)
        image_feature, text_feature = model.project_image(image), model.project_text(text, mask)
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.data = slow.data * 0.995 + fast.data * 0.005
            image_t, text_t = teacher.encode_image(batch.image), teacher.encode_text(ids, mask)
            keys_i = torch.cat([teacher.project_image(image_t).T, self.image_queue.clone()], 1)
            keys_t = torch.cat([teacher.project_text(text_t, mask).T, self.text_queue.clone()], 1)
            own = torch.zeros(size, keys_i.shape[1]).fill_diagonal_(1)
            soft_i = 0.4 * (keys_i[:, :size].T @ keys_t / self.temperature).softmax(1) + 0.6 * own
            soft_t = 0.4 * (keys_t[:, :size].T @ keys_i / self.temperature).softmax(1) + 0.6 * own
        logits_i, logits_t = image_feature @ keys_t / self.temperature, text_feature @ keys_i / self.temperature
        contrast = -sum((s * x.log_softmax(1)).sum(1).mean() for s, x in ((soft_i, logits_i), (soft_t, logits_t))) / 2
        slots = (self.pointer + torch.arange(size)) % self.image_queue.shape[1]
        self.image_queue[:, slots], self.text_queue[:, slots] = keys_i[:, :size], keys_t[:, :size]
        self.pointer += size
        with torch.no_grad():
            bad_image = logits_t[:, :size].softmax(1).fill_diagonal_(0).multinomial(1).squeeze(1)
            bad_text = logits_i[:, :size].softmax(1).fill_diagonal_(0).multinomial(1).squeeze(1)
        positive = self.fuse(model, text, image)
        negative = self.fuse(model, torch.cat([text, text[bad_text]]), torch.cat([image[bad_image], image]))
        match = model.heads["match"](torch.cat([positive[:, 0], negative[:, 0]]))
        labels = torch.cat([torch.ones(size), torch.zeros(2 * size)]).long()
        with torch.no_grad():
            states = self.fuse(teacher, teacher.encode_text(masked, mask), image_t)
            opinion = teacher.heads["mask"](states).softmax(-1)
        logits = model.heads["mask"](self.fuse(model, model.encode_text(masked, mask), image))
        hard = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        soft = -(logits.log_softmax(-1) * opinion).sum(-1)[batch.labels != -100].mean()
        loss = contrast + F.cross_entropy(match, labels) + 0.6 * hard + 0.4 * soft
        loss.backward()
        return loss

    def step(self, batch: Batch) -> float:
        self.optimiser.zero_grad(set_to_none=False)
        loss = self.backward(batch)
        self.optimiser.step()
        return loss.item()


def build(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """The commands of one rival's process."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    if name not in (ORIGINAL, PLAIN_MALLOC):
        keep_freed_memory()
    precision = settings.precision if name == PLAIN_MALLOC else name
    model = albef_base(settings.pixels, vision_weights=False, text_weights=False)
    rival = (Ours if name != ORIGINAL else Original)(
        model, argparse.Namespace(**{**vars(settings), "precision": precision})
    )
    batches = [make_batch(settings.batch, settings.tokens, settings.pixels, seed) for seed in range(4)]
    count = iter(range(10**9))

    def step() -> dict[str, float]:
        result: dict[str, float] = {}
        batch = batches[next(count) % len(batches)]
        return timed(lambda: result.update(loss=rival.step(batch))) | result | {"peak": peak_gigabytes()}

    def profile() -> str:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            rival.step(batches[0])
        return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=22, max_name_column_width=45)

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return {
        "step": step,
        "rate": lambda: matmul_rate(dtype),
        "flops": lambda: counted_flops(lambda: rival.backward(batches[0])),
        "profile": profile,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("steps", 5), ("batch", 4), ("tokens", 30), ("pixels", 256), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the library's step")
    parser.add_argument("--curve", action="store_true", help="20 steps' losses in bf16 beside fp32 (no rival)")
    parser.add_argument("--profile", action="store_true", help="the dearest operators of the library's step")
    parser.add_argument("--malloc", action="store_true", help="another rival: the library's step, malloc as it comes")
    parser.add_argument("--alone", action="store_true", help="without a rival")
    settings = parser.parse_args()
    ours = settings.precision
    if settings.curve:
        turns = Turns(build, ["fp32", "bf16"], settings)
        print("step  loss fp32  loss bf16")
        for number in range(20):
            losses = [turns(name, "step")["loss"] for name in ("fp32", "bf16")]
            print(f"{number + 1:4d}  {losses[0]:9.4f}  {losses[1]:9.4f}", flush=True)
        turns.close()
        return
    rival = PLAIN_MALLOC if settings.malloc else ORIGINAL
    names = [ours] if settings.alone else [ours, rival]
    turns = Turns(build, names, settings)
    for name in names:
        turns(name, "step")
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    rates: list[float] = []
    for _ in range(settings.steps):
        for name in names:
            rates.append(turns(ours, "rate"))
            seen[name].append(turns(name, "step"))
    rate = statistics.median(rates)
    print(
        f"{ours} matrix product of 2048: {rate:.0f} GFLOP/s "
        f"(median of {len(rates)}, {min(rates):.0f} to {max(rates):.0f})"
    )
    middle = {}
    for name, steps in seen.items():
        middle[name] = {key: statistics.median(step[key] for step in steps) for key in steps[0]}
    for name, m in middle.items():
        flops = turns(name, "flops")
        label = f"wordregion, {name}" if name == ours else name
        print(
            f"{label}: {m['wall']:.2f} s a step (CPU {m['user']:.2f} user + {m['system']:.2f} system), "
            f"{flops / 1e12:.3f} TFLOP, {flops / m['wall'] / 1e9:.0f} GFLOP/s = "
            f"{flops / m['wall'] / 1e9 / rate:.0%} of the rate, peak {seen[name][-1]['peak']:.2f} GB"
        )
    if not settings.alone:
        wall, user = (middle[rival][key] / middle[ours][key] for key in ("wall", "user"))
        print(f"ratio: {wall:.2f}x in wall time, {user:.2f}x in user CPU time")
    if settings.profile:
        print(turns(ours, "profile"))
    turns.close()


if __name__ == "__main__":
    main()
