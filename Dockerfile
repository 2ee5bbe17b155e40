# One image for every launcher in deploy/: the program, its configs, PyTorch with CUDA, and FFCV.
#
#   docker build --tag eca-lightning .
#
# Does it work here, on this GPU? A few compiled and eager steps on random images, without data:
#
#   docker run --rm --gpus all eca-lightning benchmark model --models '[eca_resnet20]' --image-size 32 --repeats 3
#
# That command takes the place of a HEALTHCHECK: a training run listens on no port, and whether it
# is alive is told by its exit status, its log and TensorBoard. A run reads /workspace/data and writes
# /workspace/runs, as user 1000; --ipc host gives the ranks of a node shared memory enough:
#
#   docker run --rm --init --gpus all --ipc host -v /data/imagenet_ffcv:/workspace/data/imagenet:ro \
#     -v "$PWD/runs:/workspace/runs" eca-lightning fit --config configs/imagenet/resnet50_paper.yaml \
#     --model.backbone.attention eca --config configs/trainer/gpu8.yaml --data.batch_size 32 --ckpt_path auto
#
# An index of your own for pip: docker build --secret id=pip,src=$HOME/.config/pip/pip.conf .
#
# `make docker-check` builds and tries all this without a Docker engine.

FROM python:3.11-slim-bookworm AS base
# This file deletes what apt has downloaded, which the cache mounts below are to keep.
RUN rm -f /etc/apt/apt.conf.d/docker-clean
ENV PATH=/opt/venv/bin:$PATH


FROM base AS build
# What FFCV and our own decoder are compiled with and against. One lock guards both caches; buildah
# before 1.29 lets go of none but the last mount's.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/lib/apt \
    --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends \
    g++ libjpeg62-turbo-dev libopencv-dev libturbojpeg0-dev pkg-config
RUN python -m venv /opt/venv
WORKDIR /source
# What is large or has to be compiled makes a layer that changes of the sources leave alone.
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt ffcv torch torchvision
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt ".[ffcv,detection,export,recipes]"


FROM base
# What FFCV, our decoder and cv2 load; and a compiler for `--model.compile true`, which builds its
# kernels while it runs.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/lib/apt \
    --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update && apt-get install --yes --no-install-recommends \
    libjpeg62-turbo libopencv-core406 libopencv-imgproc406 libturbojpeg0 \
    libgl1 libglib2.0-0 libsm6 libxext6 g++
RUN useradd --create-home --uid 1000 eca && \
    install --directory --owner eca --group eca /workspace /workspace/data /workspace/runs
WORKDIR /workspace
COPY --from=build /opt/venv /opt/venv
COPY configs configs
# As a number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 1000:1000
# A library that was forgotten above stops the build rather than the first run.
RUN python -c "from eca_lightning.data.ffcv import crop_decode, loader; crop_decode.library(); \
    from eca_lightning.data.ffcv.packed import native; native.library()"
# Which GPUs and which parts of the driver the container toolkit hands in.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG REVISION=unknown
LABEL org.opencontainers.image.title="eca-lightning" \
      org.opencontainers.image.description="Train ECA-Nets (Efficient Channel Attention) and their rivals with PyTorch Lightning and FFCV" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT"
ENTRYPOINT ["eca-lightning"]
CMD ["--help"]
