# docs/deploying.md says how to run it. Any image with Python 3.11 or newer and apt is a base.
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /source
RUN python3 -m venv /opt/switchboard
# Before the code, which changes more often.
COPY requirements.txt ./
RUN /opt/switchboard/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY . ./
RUN /opt/switchboard/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
# The kernel gives the processes of a killed child of `up` to process 1: tini reaps them. `backup` needs pg_dump.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql-client tini && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin switchboard \
    && install --directory --owner switchboard --group switchboard --mode 0700 /data
COPY --from=build /opt/switchboard /opt/switchboard
ENV PATH=/opt/switchboard/bin:$PATH SWITCHBOARD_DATA=/data PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# The embedded database and its keys. With PostgreSQL it is there for backups. Nothing else is written but /tmp.
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--", "switchboard"]
CMD ["up", "--host", "0.0.0.0"]
