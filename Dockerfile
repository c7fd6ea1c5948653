# Two images from one file, for CPUs, both run by user 10001:
#
#   docker build --target serving   -t calotype-serving   .    the prediction server and its client, without TensorFlow
#   docker build --target pipelines -t calotype-pipelines .    training, schedules, and Prefect's server
#
# What is installed is what requirements/*.lock say, hash by hash. A pip configuration that the build needs comes as a
# secret and stays in no layer: `--secret id=pip,src=/etc/pip.conf`. The packages are one layer and our code is another, so
# that a change of the code is some megabytes to send.

# What makes images, and stays out of them.
FROM docker.io/library/python:3.11-slim-bookworm AS tools
COPY requirements/bootstrap.lock /tools/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install -q --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes -r /tools/bootstrap.lock \
    && cp "$(command -v uv)" /tools/uv
COPY deploy/images/install /tools/

# Calotype itself, as it will lie over the packages.
FROM tools AS code
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY serving serving
COPY pipelines pipelines
RUN pip wheel -q --no-deps --no-build-isolation --no-index -w /wheel . \
    && python3 -m venv --without-pip /opt/calotype \
    && /tools/uv pip install -q --python /opt/calotype/bin/python3 --prefix /code --offline --no-deps \
        --compile-bytecode /wheel/*.whl \
    && rm -f /code/.lock

FROM docker.io/library/python:3.11-slim-bookworm AS base
# Folders that volumes are mounted on have this owner, so that a new volume gets it too.
RUN groupadd --gid 10001 calotype \
    && useradd --uid 10001 --gid calotype --home-dir /tmp --no-create-home --shell /usr/sbin/nologin calotype \
    && install -d -o calotype -g calotype /models /workspace /workspace/models /inbox
# HOME is the one writable place beside a read-only root, and holds nothing that must last.
ENV PATH=/opt/calotype/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
LABEL org.opencontainers.image.licenses=Apache-2.0

# The locks and the code are copied, not mounted as the tools are: not every builder notices a change of what it mounts.
FROM base AS serving
COPY requirements/serving.lock /opt/calotype/installed.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=bind,from=tools,source=/tools,target=/tools \
    /tools/install /opt/calotype/installed.lock
COPY --from=code /code /opt/calotype
# Inside a container only the published ports decide who reaches the server.
ENV CALOTYPE_HOST=0.0.0.0 CALOTYPE_MODELS=/models
USER 10001:10001
EXPOSE 8001 8002
LABEL org.opencontainers.image.title=calotype-serving
CMD ["calotype", "serve"]

FROM base AS pipelines
COPY requirements/pipelines.lock /opt/calotype/installed.lock
# TensorFlow's headers are for who compiles against it.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=bind,from=tools,source=/tools,target=/tools \
    /tools/install /opt/calotype/installed.lock \
    && rm -rf /opt/calotype/lib/python3.11/site-packages/tensorflow/include
COPY --from=code /code /opt/calotype
ENV CALOTYPE_WORKSPACE=/workspace MPLCONFIGDIR=/tmp/matplotlib TF_CPP_MIN_LOG_LEVEL=3 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 10001:10001
LABEL org.opencontainers.image.title=calotype-pipelines
CMD ["calotype", "--help"]
