# A worker that computes on the CPU, and the control worker.
FROM python:3.11-slim AS build
RUN python -m venv /opt/venv
COPY requirements/worker.lock requirements/constraints.txt /tmp/
# PyPI's torch wheels carry CUDA's libraries (gigabytes). With TORCH_INDEX naming an index of CPU builds,
# such as https://download.pytorch.org/whl/cpu, torch and torchvision come from there, in the locked
# versions but without locked hashes, and the CUDA packages are left out.
ARG TORCH_INDEX=
RUN set -e; pip="/opt/venv/bin/pip install --no-cache-dir --no-deps"; \
    if [ -z "$TORCH_INDEX" ]; then $pip --require-hashes -r /tmp/worker.lock; \
    else awk '/^[a-z]/ { keep = !/^(cuda|nvidia|torch|triton)/ } keep' /tmp/worker.lock > /tmp/rest.lock; \
        $pip --require-hashes -r /tmp/rest.lock; \
        $pip --index-url "$TORCH_INDEX" -r /tmp/constraints.txt; fi

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home zsq && install -d -o zsq -g zsq /var/lib/zsq
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ZSQ_DATA_DIR=/var/lib/zsq
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY core core
COPY store store
COPY worker worker
COPY docker/worker_health.py worker_health.py
USER zsq
VOLUME /var/lib/zsq
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=3 CMD ["python", "worker_health.py"]
CMD ["python", "-m", "worker", "cpu"]
