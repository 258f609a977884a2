# Answers on the CPU: ONNX Runtime and the server. No torch, no onnx, no CUDA.
#
#     docker build -f docker/cpu.Dockerfile -t deploykit:cpu .
#     docker run --rm -p 8000:8000 --read-only --tmpfs /tmp -v "$PWD/efficientnet_lite0:/bundles/efficientnet_lite0:ro" \
#         deploykit:cpu serve /bundles/efficientnet_lite0 --host 0.0.0.0
FROM python:3.12.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploykit deploykit
RUN python -m venv /opt/deploykit \
    && /opt/deploykit/bin/pip install --constraint constraints.txt "/source[cpu,serve]" \
    && /opt/deploykit/bin/pip uninstall --yes pip

FROM python:3.12.11-slim-bookworm

COPY --from=build /opt/deploykit /opt/deploykit
# Answers need neither torch nor onnx: an image that has them was changed by mistake, and is not built.
RUN for module in torch onnx; do \
        if /opt/deploykit/bin/python -c "import $module" 2>/dev/null; then echo "$module can be imported" >&2; exit 1; fi; \
    done \
    && /opt/deploykit/bin/deploykit doctor \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin deploykit

# What is written goes to /tmp alone, so the root may be read-only with a tmpfs there.
ENV PATH=/opt/deploykit/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DEPLOYKIT_CACHE=/tmp/deploykit
USER 10001
WORKDIR /tmp
EXPOSE 8000
# A bundle with slow graphs takes its time to load: failures of the first minute do not count.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["deploykit"]
CMD ["--help"]
