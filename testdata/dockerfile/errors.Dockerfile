FROM scratch AS 1st
FROM a b
FORM alpine
FROM --plattform=x alpine
FROM alpine
RUN --mount type=cache make
RUN --network=bridge --security=none --mount=from=$x,target=/y --device=a,b x
COPY a
COPY --form=x a b
COPY --link=perhaps --link a /b
COPY --from=x --from=y a b
COPY a <<EOF
EOF
ENV a
ENV a=b c
ENV =x
ENV
LABEL
ARG
ARG =x
EXPOSE
VOLUME
VOLUME ["", "a"]
USER
USER --x y
WORKDIR
STOPSIGNAL
MAINTAINER
SHELL
SHELL /bin/sh
SHELL []
CMD ["a", 1]
HEALTHCHECK
HEALTHCHECK CMD
HEALTHCHECK NONE at all
HEALTHCHECK TCP 80
HEALTHCHECK --interval=5 CMD x
HEALTHCHECK --timeout=1us CMD x
HEALTHCHECK --retries=many CMD x
HEALTHCHECK --retries=-1 CMD x
HEALTHCHECK --retries=99999999999 CMD x
ONBUILD
ONBUILD ONBUILD RUN x
ONBUILD FROM x
onbuild maintainer x
RUN apt-get update
 && apt-get install x
RUN cat \
  more \
  --here <<END
never ends
