# The image: Python, the pinned packages in /opt/uniter, this checkout in /src. `launch_container.sh` runs it.
#
#   docker build -t uniter .
#   docker build -t uniter --build-arg HOROVOD=1 .
#   docker build -t uniter:v100 --build-arg BASE_IMAGE=nvidia/cuda:12.6.3-base-ubuntu24.04 \
#       --build-arg REQUIREMENTS=requirements-v100.txt .
#
# torch's wheels bring CUDA, cuDNN and NCCL: a `base` image is enough. Horovod with NCCL is built with nvcc and NCCL's
# headers, which only `devel` images have. BASE_IMAGE may be any Debian 12 or Ubuntu 22.04 or later.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
FROM ${BASE_IMAGE}

ARG REQUIREMENTS=requirements.txt
ARG HOROVOD=0

# The environment is not in /src, because launch_container.sh mounts a checkout there. git reads that checkout although
# another user owns it. Open MPI, which HOROVOD=1 installs, starts as root only where both of its variables say so.
ENV UNITER_VENV=/opt/uniter \
    VIRTUAL_ENV=/opt/uniter \
    PATH=/opt/uniter/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    GIT_CONFIG_COUNT=1 \
    GIT_CONFIG_KEY_0=safe.directory \
    GIT_CONFIG_VALUE_0=/src \
    OMPI_ALLOW_RUN_AS_ROOT=1 \
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# Only what the installation reads comes first, so that a change of the code does not repeat it.
WORKDIR /src
COPY requirements*.txt ./
COPY scripts/bootstrap.sh scripts/setup.sh scripts/install_horovod.sh scripts/
RUN scripts/bootstrap.sh --requirements "$REQUIREMENTS" --horovod "$HOROVOD" && rm -rf /var/lib/apt/lists/*

# `--data_root /uniter` finds the mounts under the names that the configs of this checkout have.
RUN mkdir /uniter && ln -s /txt /uniter/txt_db && ln -s /img /uniter/img_db && ln -s /pretrain /uniter/pretrained \
    && ln -s /storage /uniter/finetune
COPY . .

# tini is process 1 and passes signals on: as process 1, Python would ignore SIGTERM, and a run could only be killed.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["bash"]
