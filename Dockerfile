# syntax=docker/dockerfile:1
# PYTHON_IMAGE: any image with Python 3.11 to 3.13 and pip. REQUIREMENTS: trainer, or gpu.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
ARG REQUIREMENTS=trainer
COPY requirements/${REQUIREMENTS}.txt /tmp/requirements.txt
# Into a folder of its own: pip and its cache stay behind in this stage.
RUN python3 -m venv --without-pip /opt/trainer \
    && python3 -m pip --python /opt/trainer/bin/python install --no-cache-dir \
        --disable-pip-version-check --only-binary :all: --require-hashes \
        -r /tmp/requirements.txt \
    && rm -rf /opt/trainer/lib/python3*/site-packages/tensorflow/include \
    && find /opt/trainer/lib/python3*/site-packages/numpy /opt/trainer/lib/python3*/site-packages/scipy \
        -type d -name tests -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
COPY --from=packages /opt/trainer /opt/trainer
COPY trainer /app/trainer
WORKDIR /app
ENV PATH=/opt/trainer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]
