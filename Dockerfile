# Written once, so that a digest behind it (docs/deployment.md) holds for both stages.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM $PYTHON_IMAGE AS build
WORKDIR /build
COPY requirements.lock .
# Every file that is installed has the checksum it had when `make lock` was run. The image runs against its own services:
# the engines that `make run` brings along are not in the lock.
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock

FROM $PYTHON_IMAGE
RUN useradd --system --uid 10001 --no-create-home saas
COPY --from=build /venv /venv
WORKDIR /app
COPY config.py wsgi.py serve.py gunicorn.conf.py ./
COPY migrations migrations
COPY templates templates
COPY saas_api saas_api
# The documentation portal shows these.
COPY CHANGELOG.md ./
COPY docs/*.md docs/
COPY docs/guides docs/guides
# Containers have a read-only file system: what is not compiled here is compiled at every start.
RUN python -m compileall -q config.py wsgi.py serve.py gunicorn.conf.py migrations saas_api
ARG REVISION=
ENV REVISION=$REVISION
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 APP_ENV=production
LABEL org.opencontainers.image.title="saas-api" org.opencontainers.image.revision=$REVISION
USER saas
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('API_PORT', '8080') + '/healthz')"]
CMD ["python", "serve.py"]
