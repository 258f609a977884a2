"""A Triton model repository from a bundle.

pbtxt.py, config.py   config.pbtxt: the text format, and Triton's fields as values that check themselves
batching.py           what Triton would refuse of a graph's shapes and a plan's profile
models.py             a graph or plan as a model; pipeline.py: the ensemble round it
containers.py         which release fits which TensorRT
readme.py, kubernetes.py, repository.py    what is written
model_files/          what becomes model.py: it runs in Triton's process, and no module here imports it
"""

from deploykit.integrations.triton.batching import GraphTensor, check_against, find_max_batch, model_tensor
from deploykit.integrations.triton.config import Batcher, ModelConfig, ModelTensor, Step, Warmup, check_model_name
from deploykit.integrations.triton.containers import find_container
from deploykit.integrations.triton.models import BACKENDS, GraphSource, Model, Serving, make_model
from deploykit.integrations.triton.pipeline import make_pipeline
from deploykit.integrations.triton.readme import Facts, write_readme
from deploykit.integrations.triton.repository import check_place, write_repository

__all__ = [
    "BACKENDS",
    "Batcher",
    "Facts",
    "GraphSource",
    "GraphTensor",
    "Model",
    "ModelConfig",
    "ModelTensor",
    "Serving",
    "Step",
    "Warmup",
    "check_against",
    "check_model_name",
    "check_place",
    "find_container",
    "find_max_batch",
    "make_model",
    "make_pipeline",
    "model_tensor",
    "write_readme",
    "write_repository",
]
