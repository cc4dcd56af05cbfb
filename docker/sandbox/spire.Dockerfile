# SPIRE server, agent and OIDC provider, compiled from locked sources where the official images cannot be pulled.
# Same paths as in those images. Context: docker/sandbox/.
FROM debian:sid-slim AS build
# sid's Release files expire within days, and an image is built against whatever mirror is at hand.
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends binutils ca-certificates gcc golang-go libc6-dev >/dev/null \
 && rm -rf /var/lib/apt/lists/*
COPY spire/ /build/
WORKDIR /build
# One compilation for all three: only the server's SQLite then uses cgo, and the agent is static, for compute nodes of any C library.
RUN CGO_ENABLED=1 GOTOOLCHAIN=local go build -trimpath -tags netgo,osusergo \
      -ldflags '-s -w -X github.com/spiffe/spire/pkg/common/version.gittag=1.15.3' -o /opt/spire/bin/ \
      github.com/spiffe/spire/cmd/spire-agent github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/support/oidc-discovery-provider \
 && ! readelf -l /opt/spire/bin/spire-agent | grep -q INTERP \
 && rm -rf /root/.cache/go-build /root/go

FROM debian:sid-slim
COPY --from=build /opt/spire/ /opt/spire/
ENV PATH=/opt/spire/bin:/usr/sbin:/usr/bin:/sbin:/bin
