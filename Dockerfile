# syntax=docker/dockerfile:1
# PYTHON_IMAGE: any image with Python 3.11 to 3.13 and pip. REQUIREMENTS: trainer, or gpu.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
ARG REQUIREMENTS=trainer
# Without strip, from Debian's binutils, the image is only larger.
RUN command -v strip > /dev/null || (apt-get -qq update \
        && apt-get -qq install --no-install-recommends binutils > /dev/null) \
    || echo 'no strip here: the image keeps 240 MB of symbols' >&2
COPY requirements/${REQUIREMENTS}.txt /tmp/requirements.txt
# Into a folder of its own: pip and its cache stay behind in this stage. What goes: headers, tests,
# symbols for debuggers, and a compiler's library that TensorFlow requires and never loads.
RUN python3 -m venv --without-pip /opt/trainer \
    && pip() { python3 -m pip --python /opt/trainer/bin/python --disable-pip-version-check "$@"; } \
    && pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/requirements.txt \
    && pip uninstall --quiet --yes --root-user-action ignore libclang \
    && cd /opt/trainer/lib/python3*/site-packages \
    && rm -rf tensorflow/include \
    && find numpy scipy -type d -name tests -prune -exec rm -rf {} + \
    && if command -v strip > /dev/null; then \
        find tensorflow obstore -type f -name '*.so*' -exec strip --strip-unneeded {} +; fi

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trainyard" \
    org.opencontainers.image.description="Distributed batch training with TensorFlow on Kubernetes" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/trainer /opt/trainer
COPY trainer /app/trainer
# A pod's user may not write there: each start would compile what it imports.
RUN ["/opt/trainer/bin/python", "-m", "compileall", "-q", "/app/trainer"]
WORKDIR /app
ENV PATH=/opt/trainer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# No HEALTHCHECK: Kubernetes ignores it, and each worker's supervisor finds one that hangs.
USER 65532:65532
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]
