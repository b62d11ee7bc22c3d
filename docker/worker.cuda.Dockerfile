# A worker that computes on one NVIDIA GPU. torch's own wheels carry CUDA's libraries; the driver comes
# from the host through the NVIDIA container toolkit, so no CUDA base image is needed.
FROM python:3.11-slim AS build
RUN python -m venv /opt/venv
COPY requirements/worker.lock /tmp/worker.lock
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/worker.lock

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home zsq && install -d -o zsq -g zsq /var/lib/zsq
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ZSQ_DATA_DIR=/var/lib/zsq \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY core core
COPY store store
COPY worker worker
COPY docker/worker_health.py worker_health.py
USER zsq
VOLUME /var/lib/zsq
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=3 CMD ["python", "worker_health.py"]
CMD ["python", "-m", "worker", "gpu"]
