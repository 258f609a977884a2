"""Answers without torch and without onnx: sessions, and what turns pictures into predictions and explanations.

>>> from deploykit.runtime import Classifier
>>> with Classifier.open("efficientnet_lite0") as classifier:   # doctest: +SKIP
...     classifier.classify("coffee.png", top=1)[0].label
'espresso'
"""

from deploykit.runtime.classifier import Classifier, Prediction
from deploykit.runtime.explainer import Explainer
from deploykit.runtime.explanation import Explanation, map_on_photo
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.segmenter import ClassShare, Segmentation, Segmenter, class_map_on_photo
from deploykit.runtime.session import Session, TensorInfo
from deploykit.runtime.trt import TrtSession

__all__ = [
    "ClassShare",
    "Classifier",
    "Explainer",
    "Explanation",
    "OrtSession",
    "Prediction",
    "Segmentation",
    "Segmenter",
    "Session",
    "TensorInfo",
    "TrtSession",
    "class_map_on_photo",
    "map_on_photo",
]
