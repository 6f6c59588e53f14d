# Image with fcos_core and its command `fcos`, on a CPU:
#     docker build --tag fcos .
#     docker run --rm --volume "$PWD:/work" fcos test --config-file FILE.yaml MODEL.WEIGHT model_final.pth
# For NVIDIA GPUs, with every CUDA kernel compiled:
#     docker build --tag fcos --build-arg DEVICE=cuda .
#     docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" fcos train --config-file FILE.yaml
ARG DEVICE=cpu

# The toolkit has the CUDA version that the pinned PyTorch is built for.
FROM ubuntu:24.04 AS toolkit-cpu
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS toolkit-cuda

# hadolint ignore=DL3006
FROM toolkit-${DEVICE} AS build
ARG DEVICE
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev g++ \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/fcos
ENV PATH=/opt/fcos/bin:$PATH PIP_NO_CACHE_DIR=1
COPY requirements.txt /src/
WORKDIR /src
# PyPI's PyTorch brings CUDA, 4 GB that a CPU has no use for.
RUN index=https://pypi.org/simple; \
    [ "$DEVICE" = cuda ] || index=https://download.pytorch.org/whl/cpu; \
    pip install --index-url "$index" --constraint requirements.txt torch torchvision \
    && pip install --constraint requirements.txt setuptools wheel ninja
COPY . /src
RUN if [ "$DEVICE" = cuda ]; then export FORCE_CUDA=1; else export FORCE_CPU=1; fi \
    && pip install --no-build-isolation --constraint requirements.txt ".[fast-eval,hub,onnx,openvino,timm,track]"

FROM ubuntu:24.04
# OpenCV needs the last two.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 libgl1 libglib2.0-0t64 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fcos /opt/fcos
ENV PATH=/opt/fcos/bin:$PATH
# The image's user "ubuntu".
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["fcos"]
CMD ["--help"]
