# A registry that wants a user name and a password.
FROM debian:bookworm-slim
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends apache2-utils docker-registry >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && htpasswd -Bbn alice 'pass:word é' >/etc/registry.users
ENV REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_REALM=test REGISTRY_AUTH_HTPASSWD_PATH=/etc/registry.users
ENV REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/tmp/registry REGISTRY_HTTP_ADDR=0.0.0.0:5000 REGISTRY_LOG_LEVEL=error
EXPOSE 5000
CMD ["docker-registry", "serve", "/etc/docker/registry/config.yml"]
