# Two images from one file, both for CPUs, both run by user 10001:
#
#   docker build --target serving   -t calotype-serving   .    the prediction server and its client, without TensorFlow
#   docker build --target pipelines -t calotype-pipelines .    training, schedules, and Prefect's server
#
# What is installed is what requirements/*.lock say, hash by hash. A pip configuration that the build needs comes as a
# secret and stays in no layer: `--secret id=pip,src=/etc/pip.conf`. The packages are one layer, our code is another, so a
# change of the code sends some hundred kilobytes.

FROM docker.io/library/python:3.11-slim-bookworm AS tools
# uv asks the authorities that the base image trusts, as pip does; the bytecode is made here, since the root is read-only
# where these images run.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=180 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/bootstrap.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install -q --require-hashes -r /requirements/bootstrap.lock && python3 -m venv --without-pip /opt/calotype

FROM tools AS serving-packages
COPY requirements/serving.lock /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    { uv pip install -q --python /opt/calotype/bin/python3 --require-hashes -r /requirements/serving.lock \
    || pip --python /opt/calotype/bin/python3 install -q --require-hashes -r /requirements/serving.lock; } \
    && rm -f /opt/calotype/.lock

FROM tools AS pipelines-packages
COPY requirements/pipelines.lock /requirements/
# TensorFlow's headers are for who compiles against it: 100 MB.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    { uv pip install -q --python /opt/calotype/bin/python3 --require-hashes -r /requirements/pipelines.lock \
    || pip --python /opt/calotype/bin/python3 install -q --require-hashes -r /requirements/pipelines.lock; } \
    && rm -rf /opt/calotype/.lock /opt/calotype/lib/python3.11/site-packages/tensorflow/include

# Calotype itself, as it will lie over the packages.
FROM tools AS code
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY serving serving
COPY pipelines pipelines
RUN pip wheel -q --no-deps --no-build-isolation --no-index -w /wheel . \
    && uv pip install -q --python /opt/calotype/bin/python3 --prefix /code --no-deps --offline /wheel/*.whl \
    && rm -f /code/.lock

FROM docker.io/library/python:3.11-slim-bookworm AS base
# Folders that volumes are mounted on have this owner, so that a new volume gets it too.
RUN groupadd --gid 10001 calotype \
    && useradd --uid 10001 --gid calotype --home-dir /tmp --no-create-home --shell /usr/sbin/nologin calotype \
    && install -d -o calotype -g calotype /models /workspace /workspace/models /inbox
# HOME is where a read-only root has its one writable place, and holds nothing that must last.
ENV PATH=/opt/calotype/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
LABEL org.opencontainers.image.licenses=Apache-2.0

FROM base AS serving
COPY --from=serving-packages /opt/calotype /opt/calotype
COPY --from=code /code /opt/calotype
# Inside a container only the published ports decide who reaches the server.
ENV CALOTYPE_HOST=0.0.0.0 CALOTYPE_MODELS=/models
USER 10001:10001
EXPOSE 8001 8002
LABEL org.opencontainers.image.title=calotype-serving
CMD ["calotype", "serve"]

FROM base AS pipelines
COPY --from=pipelines-packages /opt/calotype /opt/calotype
COPY --from=code /code /opt/calotype
ENV CALOTYPE_WORKSPACE=/workspace MPLCONFIGDIR=/tmp/matplotlib TF_CPP_MIN_LOG_LEVEL=3 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 10001:10001
LABEL org.opencontainers.image.title=calotype-pipelines
CMD ["calotype", "--help"]
