"""GLIP's settings (Li et al., CVPR 2022)."""

from wordregion.recipes.recipe import AdamW

OPTIMISER = AdamW(
    lr=1e-4,
    weight_decay=1e-4,
    schedule="step",
    warmup=2000,
    start=1e-3,
    milestones=(0.67, 0.89),
    drop=0.1,
    lr_scale=(("text.", 0.1),),
    no_decay=("bias",),
    decay_vectors=True,
    bias_scale=2.0,
)
"""Pre-training and fine-tuning as published: the text encoder at a tenth of the rate, biases at twice, not decayed."""
