# syntax=docker/dockerfile:1
# heedful serve, with what serving needs and torch for the CPU.
#     docker build -t heedful .
#     docker run --rm -p 127.0.0.1:8000:8000 -v ./demo:/models -v ./keys.toml:/run/keys.toml:ro -v heedful:/state heedful

# Pinned to a release of Debian; for builds that are the same byte for byte, to a digest (@sha256:...) as well.
FROM python:3.11-slim-bookworm AS build
# The index of torch's wheels for the CPU alone (--build-arg TORCH_INDEX=...), a twentieth of the size of those for GPUs, which
# are what comes without it.
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/heedful
ENV PATH=/opt/heedful/bin:$PATH
WORKDIR /build
# Dependencies change seldom, so they make a layer of their own: torch first, from its index.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --constraint constraints.txt '.[serve]'

FROM python:3.11-slim-bookworm
# numba and matplotlib write caches; everything else of the image may be read-only.
ENV PATH=/opt/heedful/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin heedful \
    && install -d -o heedful -g heedful -m 700 /state
COPY --from=build /opt/heedful /opt/heedful
USER heedful
VOLUME /state
EXPOSE 8000
# Ready: the model is in memory and the database answers. Both need no key.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["heedful"]
CMD ["serve", "/models/attention", "--host", "0.0.0.0", "--keys", "/run/keys.toml", \
     "--slots", "/state/slots.toml", "--database", "/state/heedful.sqlite"]
