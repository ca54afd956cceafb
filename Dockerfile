# Two images from one file. The last stage, which is what `make run` builds and starts (on Windows,
# Start-project.bat), has everything: Python with the pinned packages (dbt among them), Terraform,
# and what `make demo` needs, Google's Pub/Sub emulator and a Java runtime for it. The stage
# `runtime` is what Cloud Run runs (`make image`): the stages, their packages and nothing else.

ARG PYTHON_VERSION=3.11
ARG TERRAFORM_VERSION=1.11.4
ARG CLOUD_CLI_VERSION=528.0.0
ARG JAVA_VERSION=17
ARG UV_VERSION=0.13.9

FROM hashicorp/terraform:${TERRAFORM_VERSION} AS terraform

FROM gcr.io/google.com/cloudsdktool/google-cloud-cli:${CLOUD_CLI_VERSION}-emulators AS emulators

FROM python:${PYTHON_VERSION}-slim-bookworm AS python

FROM python AS java
ARG JAVA_VERSION
# The JDK's installation needs man1, which slim images leave out.
# hadolint ignore=DL3008
RUN mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-${JAVA_VERSION}-jdk-headless \
    && rm -rf /var/lib/apt/lists/*
# Only the modules that the emulator uses: 39 MB, where Debian's smallest runtime takes 204.
RUN jlink --output /opt/java --compress=2 --no-header-files --no-man-pages \
        --strip-java-debug-attributes \
        --add-modules java.base,java.logging,java.management,java.naming,java.sql,jdk.unsupported

FROM python AS installer
ARG UV_VERSION
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}
ENV UV_CACHE_DIR=/var/cache/uv

FROM installer AS runtime-packages
COPY requirements.txt /tmp/
# dbt-bigquery names these for Python models and data frames, which we have none of.
RUN printf '%s ; sys_platform == "never"\n' \
        google-cloud-aiplatform pandas pandas-gbq pyarrow db-dtypes > /tmp/left-out.txt
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/venv/bin/uv venv --quiet /opt/runtime \
    && /opt/venv/bin/uv pip install --python /opt/runtime/bin/python --link-mode copy \
        --compile-bytecode --override /tmp/left-out.txt --requirement /tmp/requirements.txt

FROM python AS runtime
# the files of a run lie in memory, below /app, until the container ends
RUN mkdir --mode 777 /app /home/pipeline
COPY --from=runtime-packages /opt/runtime /opt/runtime
ENV PATH=/opt/runtime/bin:$PATH \
    HOME=/home/pipeline \
    PYTHONUNBUFFERED=1 \
    DBT_USE_COLORS=false
WORKDIR /app
COPY --chown=1000:1000 batch_ingestion.py near_realtime_ingestion_2.py kpi_report.py ./
COPY --chown=1000:1000 ingestion ingestion
COPY --chown=1000:1000 reporting reporting
COPY --chown=1000:1000 terraform/schemas terraform/schemas
COPY --chown=1000:1000 ey_test_tech ey_test_tech
RUN python -m compileall -q .
USER 1000:1000
CMD ["python", "near_realtime_ingestion_2.py", "--help"]

FROM installer AS packages
COPY requirements.txt requirements-local.txt /tmp/
# The bytecode is compiled here, once, because a container forgets what it compiles when it ends.
# .installed and the write permission let `make`, run as any user, find its environment complete or
# add to it what a later requirements.txt or requirements-dev.txt asks for.
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/venv/bin/uv pip install --python /opt/venv/bin/python --link-mode copy \
        --compile-bytecode --requirement /tmp/requirements-local.txt \
    && cat /tmp/requirements.txt /tmp/requirements-local.txt > /opt/venv/.installed \
    && chmod -R a+rwX /opt/venv

FROM python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl make \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir --mode 777 /app /home/pipeline /opt/venv
COPY --from=terraform /bin/terraform /usr/local/bin/terraform
# the folder that Google's Debian packages use, so that local_gcp/ knows it
COPY --from=emulators /google-cloud-sdk/platform/pubsub-emulator \
    /usr/lib/google-cloud-sdk/platform/pubsub-emulator
COPY --from=java /opt/java /opt/java
COPY --from=packages /opt/venv /opt/venv
# HOME and USER stand in for the entry in /etc/passwd that the host's user does not have here.
ENV PATH=/opt/venv/bin:/opt/java/bin:$PATH \
    VENV=/opt/venv \
    HOME=/home/pipeline \
    USER=pipeline
COPY docker.bashrc /home/pipeline/.bashrc
# The project as it was built, for a container without a mount; `make run` mounts the host's over it.
COPY --chown=1000:1000 . /app
WORKDIR /app
USER 1000:1000
CMD ["bash"]
