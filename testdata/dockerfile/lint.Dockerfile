# check=skip=DuplicateStageName;experimental=InvalidDefinitionDescription
# says what VERSION is
ARG VERSION=1
FROM --platform=linux/arm64 busybox as Base
FROM --platform=$TARGETPLATFORM busybox AS base
From --platform=linux/arm64 base AS for-arm64
WORKDIR app
WORKDIR again
EXPOSE 80/TCP 127.0.0.1:8080:80 81 $PORT
ENV API_TOKEN x
env PASSWORD_FILE=/p AUTH=1
ARG key=1 public_key
LABEL old form
MAINTAINER me
CMD one
CMD two
# check=skip=all
ENTRYPOINT three
HEALTHCHECK NONE
HEALTHCHECK NONE

FROM for-arm64 AS scratch
WORKDIR relative but inherited
SHELL ["/bin/sh", "-c"]
CMD with a shell of its own
RUN a \

  b
