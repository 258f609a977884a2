"""Manifests that start a repository on Kubernetes: KServe's InferenceService, or a plain Deployment with its Service.

In: the name, the image, what a replica may take. Out: YAML. Where the repository lies is the user's to fill in (`PLACEHOLDER`).
Kinds and fields: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/overview and
https://kubernetes.io/docs/reference/kubernetes-api/. Ports 8080 and 9000 under KServe are those of its Triton runtime.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STORAGE = "s3://BUCKET/PATH"
"""Stands where a user's storage must."""

IMAGE = "REGISTRY/NAME:TAG"
"""Stands where the image with deploykit must, that REPO/README.md shows how to build."""

_SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
_SHM_MOUNT = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 the place that POSIX shared memory has


@dataclass(frozen=True)
class Replica:
    """What one replica is.

    Args:
        name: of the service.
        image: what it runs.
        has_gpu: whether it needs one.
        cpus: cores. memory: such as ``4Gi``.
    """

    name: str
    image: str
    has_gpu: bool
    cpus: int = 2
    memory: str = "4Gi"

    @property
    def resources(self) -> dict[str, Any]:
        """Requests and limits."""
        gpu = {"nvidia.com/gpu": "1"} if self.has_gpu else {}
        amount = {"cpu": str(self.cpus), "memory": self.memory, **gpu}
        return {"requests": amount, "limits": amount}


def kserve_manifest(replica: Replica) -> str:
    """An InferenceService, serving.kserve.io/v1beta1.

    KServe puts the repository at /mnt/models, where its Triton runtime serves every model in it.
    """
    model = {
        "modelFormat": {"name": "triton", "version": "2"},
        "protocolVersion": "v2",
        "storageUri": STORAGE,
        "image": replica.image,
        "resources": replica.resources,
        "readinessProbe": _probe("/v2/health/ready", 8080),
        "volumeMounts": [_SHM_MOUNT],
    }
    return to_yaml(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": dns_name(replica.name)},
            "spec": {"predictor": {"minReplicas": 1, "model": model, "volumes": [_SHM]}},
        }
    )


def kubernetes_manifests(replica: Replica) -> str:
    """A Deployment, which reads the repository from a PersistentVolumeClaim, and its Service."""
    name = dns_name(replica.name)
    labels = {"app.kubernetes.io/name": name}
    container = {
        "name": "triton",
        "image": replica.image,
        "args": ["tritonserver", "--model-repository=/models", "--exit-on-error=true"],
        "ports": [{"name": port, "containerPort": number} for port, number in _PORTS.items()],
        "resources": replica.resources,
        # Warm-up of all models comes first; a server that is not ready after five minutes never will be.
        "startupProbe": {**_probe("/v2/health/ready", 8000), "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": _probe("/v2/health/ready", 8000),
        "livenessProbe": _probe("/v2/health/live", 8000),
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}, _SHM_MOUNT],
    }
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": f"{name}-models", "readOnly": True}}, _SHM]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": port, "port": number} for port, number in _PORTS.items()]},
    }
    return f"{to_yaml(deployment)}---\n{to_yaml(service)}"


_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def _probe(path: str, port: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": 5}


def dns_name(name: str) -> str:
    """A name that Kubernetes takes: RFC 1123, at most 63 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "model"


def to_yaml(value: Mapping[str, Any], indent: str = "") -> str:
    """Mappings, lists and scalars as block YAML 1.2; texts are quoted as JSON quotes them, which YAML reads the same."""
    return "".join(f"{indent}{key}:{_value(item, indent)}" for key, item in value.items())


def _value(item: object, indent: str) -> str:
    if isinstance(item, Mapping) and item:
        return f"\n{to_yaml(item, indent + '  ')}"
    if isinstance(item, Sequence) and not isinstance(item, str) and item:
        return "\n" + "".join(_entry(entry, indent + "  ") for entry in item)
    return f" {json.dumps(item)}\n"


def _entry(entry: object, indent: str) -> str:
    if isinstance(entry, Mapping) and entry:
        return f"{indent}- {to_yaml(entry, indent + '  ').lstrip()}"
    return f"{indent}- {json.dumps(entry)}\n"
