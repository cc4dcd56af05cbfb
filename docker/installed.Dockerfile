# The HPCS server of a package that npm installed: the same program as target `server` of docker/Dockerfile, which needs a checkout.
# The context holds the package and what it depends on, each where npm put it, below node_modules.
FROM debian:bookworm-slim
ARG NODE
ARG PACKAGE
COPY node_modules /app/node_modules
RUN ln -s "/app/$PACKAGE" /app/hpcs-client && ln -s "/app/$NODE" /usr/local/bin/node
USER 65532
EXPOSE 10080
ENTRYPOINT ["node", "/app/hpcs-client/bin/run.js", "server"]
