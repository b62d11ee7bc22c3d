# The HTTP API and, with another command, the migrations. No torch.
FROM python:3.11-slim AS build
RUN python -m venv /opt/venv
COPY requirements/api.lock /tmp/api.lock
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/api.lock

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home zsq && install -d -o zsq -g zsq /var/lib/zsq
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ZSQ_DATA_DIR=/var/lib/zsq ZSQ_HOST=0.0.0.0 ZSQ_PORT=8000
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY api api
COPY core core
COPY store store
COPY migrations migrations
USER zsq
VOLUME /var/lib/zsq
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["python", "-m", "api"]
