"""Functions that return a Recipe. `BUILTIN` are those that the command line knows by name."""

from collections.abc import Callable

from wordregion.recipes.albef import albef_4m, albef_demo
from wordregion.recipes.caption import (
    caption_coco,
    caption_coco_cider,
    caption_pretrain,
    caption_scenes,
    caption_scenes_cider,
)
from wordregion.recipes.entailment import entail_scenes, entail_snli_ve
from wordregion.recipes.flickr_small import flickr_frozen, flickr_small, flickr_tuned
from wordregion.recipes.glip import glip_coco, glip_large, glip_tiny, glip_tiny_a
from wordregion.recipes.glip_scenes import glip_scenes, glip_scenes_adapt
from wordregion.recipes.glip_small import glip_flickr_small, glip_student_small
from wordregion.recipes.nlvr import (
    nlvr2,
    nlvr2_pretrain,
    nlvr_scenes,
    nlvr_scenes_pretrain,
    xvlm_nlvr2,
    xvlm_nlvr2_pretrain,
)
from wordregion.recipes.recipe import Recipe
from wordregion.recipes.refer import (
    refer_boxes_pretrain,
    refer_boxes_refcoco_plus,
    refer_boxes_scenes,
    refer_refcoco_plus,
    refer_scenes,
    xvlm_refer_refcoco_plus,
)
from wordregion.recipes.retrieval import (
    retrieval_coco,
    retrieval_flickr,
    retrieval_scenes,
    xvlm_retrieval_coco,
    xvlm_retrieval_flickr,
)
from wordregion.recipes.small_tasks import entail_small, nlvr_small, vqa_small
from wordregion.recipes.vl_match import vl_match_4m, vl_match_flickr_small, vl_match_regions_scenes, vl_match_scenes
from wordregion.recipes.vqa import vqa_scenes, vqa_v2, xvlm_vqa_v2
from wordregion.recipes.xvlm import xvlm_4m, xvlm_scenes
from wordregion.recipes.xvlm_small import caption_flickr_small, xvlm_flickr_small

BUILTIN: dict[str, Callable[..., Recipe]] = {
    "albef_demo": albef_demo,
    "albef_4m": albef_4m,
    "flickr_frozen": flickr_frozen,
    "flickr_tuned": flickr_tuned,
    "flickr_small": flickr_small,
    "glip_tiny_a": glip_tiny_a,
    "glip_tiny": glip_tiny,
    "glip_large": glip_large,
    "glip_coco": glip_coco,
    "glip_scenes": glip_scenes,
    "glip_scenes_adapt": glip_scenes_adapt,
    "glip_flickr_small": glip_flickr_small,
    "glip_student_small": glip_student_small,
    "entail_small": entail_small,
    "vqa_small": vqa_small,
    "nlvr_small": nlvr_small,
    "nlvr2_pretrain": nlvr2_pretrain,
    "nlvr2": nlvr2,
    "nlvr_scenes_pretrain": nlvr_scenes_pretrain,
    "nlvr_scenes": nlvr_scenes,
    "retrieval_flickr": retrieval_flickr,
    "retrieval_coco": retrieval_coco,
    "retrieval_scenes": retrieval_scenes,
    "entail_snli_ve": entail_snli_ve,
    "entail_scenes": entail_scenes,
    "caption_pretrain": caption_pretrain,
    "caption_coco": caption_coco,
    "caption_coco_cider": caption_coco_cider,
    "caption_scenes": caption_scenes,
    "caption_scenes_cider": caption_scenes_cider,
    "refer_refcoco_plus": refer_refcoco_plus,
    "refer_scenes": refer_scenes,
    "refer_boxes_pretrain": refer_boxes_pretrain,
    "refer_boxes_refcoco_plus": refer_boxes_refcoco_plus,
    "refer_boxes_scenes": refer_boxes_scenes,
    "vl_match_4m": vl_match_4m,
    "vl_match_flickr_small": vl_match_flickr_small,
    "vl_match_scenes": vl_match_scenes,
    "vl_match_regions_scenes": vl_match_regions_scenes,
    "vqa_v2": vqa_v2,
    "vqa_scenes": vqa_scenes,
    "xvlm_4m": xvlm_4m,
    "xvlm_scenes": xvlm_scenes,
    "xvlm_retrieval_flickr": xvlm_retrieval_flickr,
    "xvlm_retrieval_coco": xvlm_retrieval_coco,
    "xvlm_vqa_v2": xvlm_vqa_v2,
    "xvlm_nlvr2_pretrain": xvlm_nlvr2_pretrain,
    "xvlm_nlvr2": xvlm_nlvr2,
    "xvlm_refer_refcoco_plus": xvlm_refer_refcoco_plus,
    "xvlm_flickr_small": xvlm_flickr_small,
    "caption_flickr_small": caption_flickr_small,
}
