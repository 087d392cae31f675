"""One adapter for each published format, and `open_source`, which recognises what a path points at."""

from wordregion.data.datasets.albef import AlbefJson
from wordregion.data.datasets.coco import CocoCaptions, CocoInstances
from wordregion.data.datasets.flickr import Flickr30kEntities
from wordregion.data.datasets.mdetr import MdetrGrounding
from wordregion.data.datasets.odvg import Odvg
from wordregion.data.datasets.open_images import OpenImages
from wordregion.data.datasets.opening import open_source
from wordregion.data.datasets.pairs import ImageText

__all__ = [
    "AlbefJson",
    "CocoCaptions",
    "CocoInstances",
    "Flickr30kEntities",
    "ImageText",
    "MdetrGrounding",
    "Odvg",
    "OpenImages",
    "open_source",
]
