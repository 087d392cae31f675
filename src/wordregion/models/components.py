"""Images as a few principal components, for data with too few images to learn more of them than which is which.

Shape letters: I images, V image width, C components.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wordregion.errors import UsageError
from wordregion.models.fusion import FusionModel
from wordregion.nn.fusion import FusionBlock


@torch.no_grad()
def on_components(model: FusionModel, summary_IV: Float[Tensor, "I V"], components: int) -> FusionModel:
    """Turns a model, new or trained, into one that sees of an image the principal components of its summary alone.

    The components are scaled together, so that their variances are 1 on average. A second token, all 0, is what the
    mean image would be: a text may look there instead, so that how much of the image it takes depends on both (over a
    single token, attention is always 1). The fusion encoder begins without looking: the cross-attention's keys and
    values start at 0, so that images come in gently, as they prove useful. The projection for the contrast goes on as
    it was, on what is left of an image.

    Args:
        model: changed in place; its image encoder gives two tokens of width C from now on.
        summary_IV: summaries of training images by its image encoder, before.
        components: C, less than I and at most V.

    Raises:
        UsageError: if there are too few images for so many components, the summaries do not vary, or the model has
            been on components before or has places.
    """
    images, width = summary_IV.shape
    if not 0 < components <= min(images - 1, width):
        raise UsageError(
            f"{components} components of {images} images of width {width}: there are 1 to {min(images - 1, width)}. "
            "Take fewer, or more images."
        )
    if model.vision.components is not None or model.places is not None:
        raise UsageError("on_components: the model has components or places already. Start from one without.")
    device = model.image_proj.weight.device
    exact_IV = summary_IV.double().cpu()
    mean_V = exact_IV.mean(0)
    values, vectors = torch.linalg.eigh((exact_IV - mean_V).T.cov())
    scale = values[-components:].clamp(min=0).mean().sqrt()
    if not scale > 0:
        raise UsageError("on_components: all images have the same summary. Give images that differ.")
    basis_CV = vectors[:, -components:].flip(1).T
    kept = nn.Linear(width, components, device=device)
    kept.weight.copy_(basis_CV / scale)
    kept.bias.copy_(-basis_CV @ mean_V / scale)
    model.image_proj = _after(model.image_proj, (basis_CV.T * scale).float().to(device), mean_V.float().to(device))
    for block in model.fusion.layers:
        assert isinstance(block, FusionBlock)
        block.cross.kv = nn.Linear(components, block.cross.kv.out_features, device=device)
        nn.init.zeros_(block.cross.kv.weight)
        nn.init.zeros_(block.cross.kv.bias)
    model.vision.summarise(kept)
    return model


def _after(linear: nn.Linear, back_VC: Tensor, mean_V: Tensor) -> nn.Linear:
    """The map x -> linear(back x + mean)."""
    joined = nn.Linear(back_VC.shape[1], linear.out_features, device=linear.weight.device)
    joined.weight.copy_(linear.weight @ back_VC)
    joined.bias.copy_(linear.bias + linear.weight @ mean_V)
    return joined
