# A tag may move: where builds must repeat to the byte, pin both images by digest (docker buildx imagetools inspect).
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements requirements
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/bootstrap.txt \
    && /venv/bin/uv pip install --no-cache --python /venv/bin/python --compile-bytecode --require-hashes -r requirements/runtime.txt
COPY . .
RUN /venv/bin/uv pip install --no-cache --python /venv/bin/python --compile-bytecode --no-deps \
    --build-constraints requirements/dev.txt .

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
# Faust keeps its tables below the working folder.
WORKDIR /var/lib/omium
RUN useradd --system --uid 10001 omium && chown omium /var/lib/omium
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 10001
ENTRYPOINT ["omium-recovery"]
CMD ["worker", "all"]
