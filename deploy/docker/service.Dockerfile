# The service. Build from the top of the repository:
#   docker build -f deploy/docker/service.Dockerfile -t tokenstone/service:0.1.0 .

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/tokenstone
COPY . .
RUN /opt/tokenstone/bin/pip install --no-cache-dir --constraint constraints.txt '.[service,postgres]'

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="Tokenstone service" org.opencontainers.image.licenses="Apache-2.0"
# The folders belong to the user before volumes are laid over them: a new volume takes their owner.
RUN useradd --system --uid 10001 --user-group --no-create-home tokenstone \
    && install -d -o 10001 -g 10001 /var/lib/tokenstone /keys /keys/agent /keys/prometheus
COPY --from=build /opt/tokenstone /opt/tokenstone
COPY deploy/docker/healthy deploy/docker/make-keys /usr/local/bin/
# These names hold "TOKEN", and no secret.
# hadolint ignore=DL3064
ENV PATH=/opt/tokenstone/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOKENSTONE_HOST=0.0.0.0 \
    TOKENSTONE_PORT=8470 \
    TOKENSTONE_DATA=/var/lib/tokenstone
WORKDIR /var/lib/tokenstone
USER 10001:10001
VOLUME /var/lib/tokenstone
EXPOSE 8470
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["healthy", "service"]
CMD ["tokenstone", "serve"]
