# For compose.debian.yaml: PostgreSQL from Debian, where its own image can't be had.
FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner postgres --group postgres /var/lib/postgresql/data
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
COPY postgres.sh /
# hadolint ignore=DL3066
USER postgres
