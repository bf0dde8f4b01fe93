# Trains and builds shards. CUDA comes with the wheels of torch and DALI, so a plain Python image is the base.
#
#   docker build -t esvit-streaming .                        # training on GPUs
#   docker build -t esvit-shards --build-arg EXTRAS= .       # shard building only: no torch
#
# Behind a proxy or a package mirror: --build-arg BASE_IMAGE=IMAGE, with its certificates and its /etc/pip.conf.
# One stage on purpose: the gigabytes of dependencies stay a layer of their own, and a change of the sources
# moves only kilobytes.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="esvit-streaming" \
      org.opencontainers.image.description="Pre-train EsViT vision transformers from tar shards in object storage" \
      org.opencontainers.image.licenses="MIT"

# tini, as process 1, hands SIGTERM on (the checkpoint before the end) and reaps what the launcher leaves behind.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home esvit \
    && mkdir /data \
    && chown esvit:esvit /data \
    && python3 -m venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Dependencies first: installing the package without its sources brings them all, and is repeated only when the
# declarations change.
WORKDIR /src
ARG EXTRAS=train,dali
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE \
    && pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

COPY README.md LICENSE ./
COPY pipeline pipeline
COPY esvit esvit
COPY tools tools
COPY configs configs
RUN pip install --no-cache-dir --no-deps . && rm -r build

WORKDIR /opt/esvit
COPY configs configs

# Numeric, so that Kubernetes can see that it is not root. /data takes a volume for runs and the shard cache.
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["esvit-train", "--help"]
