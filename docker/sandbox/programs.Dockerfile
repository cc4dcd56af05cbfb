# hpcs/programs: the static programs that tool kits are made of, and age for tests and comparisons. Context: docker/.
ARG SPIRE_IMAGE=hpcs-sandbox/spire

FROM debian:sid-slim AS build
# sid's Release files expire within days, and an image is built against whatever mirror is at hand.
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ca-certificates golang-go >/dev/null \
 && rm -rf /var/lib/apt/lists/*
COPY tool-kit/ /build/
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath
RUN cd /build/gocryptfs \
 && go build -tags without_openssl -ldflags '-s -w -X main.GitVersion=v2.6.1' -o /programs/gocryptfs github.com/rfjakob/gocryptfs/v2 \
 && cd /build/age \
 && go build -ldflags '-s -w -X main.Version=v1.3.1' -o /programs/age filippo.io/age/cmd/age \
 && rm -rf /root/.cache/go-build /root/go

FROM ${SPIRE_IMAGE} AS spire

FROM scratch
COPY --from=build /programs/ /programs/
COPY --from=spire /opt/spire/bin/spire-agent /programs/
CMD ["/programs/age"]
