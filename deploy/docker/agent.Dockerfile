# The agent, and with --target workloads the reference workloads beside it. Build from the top of the repository:
#   docker build -f deploy/docker/agent.Dockerfile --target agent -t tokenstone/agent:0.1.0 .
#   docker build -f deploy/docker/agent.Dockerfile --target workloads -t tokenstone/workloads:0.1.0 .
# Drivers' libraries are the host's: the container runtime puts them in.

FROM python:3.11.14-slim-bookworm AS build
ARG EXTRAS=agent,kubernetes,amd
WORKDIR /source
RUN python -m venv /opt/tokenstone
COPY . .
RUN /opt/tokenstone/bin/pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]"

FROM build AS build-workloads
RUN /opt/tokenstone/bin/pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS,workloads]"

FROM python:3.11.14-slim-bookworm AS base
RUN useradd --system --uid 10001 --user-group --no-create-home tokenstone \
    && install -d -o 10001 -g 10001 /var/lib/tokenstone
COPY deploy/docker/healthy /usr/local/bin/
ENV PATH=/opt/tokenstone/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib
WORKDIR /var/lib/tokenstone
USER 10001:10001
VOLUME /var/lib/tokenstone

FROM base AS workloads
LABEL org.opencontainers.image.title="Tokenstone workloads" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-workloads /opt/tokenstone /opt/tokenstone
# A bench ends; nothing of it is worth asking whether it is healthy.
HEALTHCHECK NONE
CMD ["tokenstone", "bench"]

FROM base AS agent
LABEL org.opencontainers.image.title="Tokenstone agent" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/tokenstone /opt/tokenstone
EXPOSE 9478
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["healthy", "agent"]
CMD ["tokenstone", "agent"]
