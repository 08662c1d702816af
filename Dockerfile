# The image of `oncue`: one binary. Built and run by docker-compose.yml; not run by the project's own tests.
FROM rust:1.95-bookworm AS build
# What the client of Kafka is built with; most of it is in the image already.
RUN apt-get update && apt-get install -y --no-install-recommends make pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV SQLX_OFFLINE=true
RUN cargo build --release --locked --bin oncue

FROM debian:12-slim
RUN useradd --system --create-home --home-dir /var/lib/oncue oncue \
    && apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/oncue /usr/local/bin/oncue
USER oncue
WORKDIR /var/lib/oncue
ENTRYPOINT ["oncue"]
CMD ["serve"]
