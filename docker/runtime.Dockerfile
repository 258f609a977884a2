# Answers on an NVIDIA GPU: TensorRT runs the plans of a bundle. No torch, no onnx, and nothing that builds plans.
#
#     docker build -f docker/runtime.Dockerfile -t deploykit:runtime .
#     docker run --rm --gpus all -p 8000:8000 --read-only --tmpfs /tmp -v "$PWD/efficientnet_lite0:/bundles/efficientnet_lite0:ro" \
#         deploykit:runtime serve /bundles/efficientnet_lite0 --host 0.0.0.0 --backend tensorrt
#
# A plan loads in the TensorRT that built it: TENSORRT here and in build.Dockerfile are one version.
FROM python:3.12.11-slim-bookworm AS build

ARG TENSORRT=10.13.3.9
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploykit deploykit
# constraints.txt pins another TensorRT, whose bindings the tests read. The builder's kernels are for building: a runtime never loads them.
RUN python -m venv /opt/deploykit \
    && grep --invert-match --ignore-case '^tensorrt' constraints.txt > /tmp/constraints.txt \
    && /opt/deploykit/bin/pip install --constraint /tmp/constraints.txt --extra-index-url https://pypi.nvidia.com \
        "/source[cpu,serve]" cuda-core "tensorrt-cu13==${TENSORRT}" \
    && /opt/deploykit/bin/pip uninstall --yes pip \
    && find /opt/deploykit -name 'libnvinfer_builder_resource*' -print -delete

FROM python:3.12.11-slim-bookworm

ARG TENSORRT=10.13.3.9
COPY --from=build /opt/deploykit /opt/deploykit
# The image fails to build if torch or onnx got in, or if TensorRT is another one or does not load without the builder's kernels.
RUN for module in torch onnx; do \
        if /opt/deploykit/bin/python -c "import $module" 2>/dev/null; then echo "$module can be imported" >&2; exit 1; fi; \
    done \
    && /opt/deploykit/bin/python -c "import tensorrt, cuda.core; assert tensorrt.__version__.split('.post')[0] == '${TENSORRT}', tensorrt.__version__" \
    && /opt/deploykit/bin/deploykit doctor \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin deploykit

# The driver comes from the host through the NVIDIA container toolkit. What is written goes to /tmp alone, CUDA's own cache of
# compiled kernels too, so the root may be read-only with a tmpfs there.
ENV PATH=/opt/deploykit/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DEPLOYKIT_CACHE=/tmp/deploykit \
    CUDA_CACHE_PATH=/tmp/cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["deploykit"]
CMD ["--help"]
