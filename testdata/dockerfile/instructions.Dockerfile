ARG REGISTRY=docker.io TAG
ARG EMPTY=
FROM --platform=$BUILDPLATFORM ${REGISTRY}/alpine:$TAG AS Build
ADD --chown=1:2 --chmod=u=rwX --link --checksum=sha256:ab --keep-git-dir=false --unpack=TRUE --exclude=*.o --exclude=tmp a b /c/
ADD ["a b", "/c d/"]
ARG A "B=c d" C='e f'
COPY --from=Build --parents=true --link=false --chown=u:g --chmod=0755 ./src/./x /y
COPY "--from=0" a b
COPY -- --odd /z
COPY --exclude="a b" [x y
ENTRYPOINT ["a", "b\u0063"]
ENTRYPOINT [ 'a' ]
ENTRYPOINT []
ENV A=1 B="2 3" C=4\ 5 D='6'
ENV OLD the rest  of it
ENV "Q"=1
EXPOSE 90-91/udp 80 $PORT
HEALTHCHECK none
HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0s --start-interval=500ms --retries=4 CMD curl -f http://localhost/
HEALTHCHECK cmd ["/probe", "-x"]
LABEL a=b "c d"="e f" 'g'=h
LABEL old style label
MAINTAINER  Some One <some@one>
ONBUILD ADD . /src
ONBUILD   RUN --mount=type=cache,target=/c make
ONBUILD RUN --surprise make
RUN
RUN echo  two  blanks
RUN --mount=type=bind,from=build,target=/b --mount=type=cache,"target=/a,b" --network=host --security=insecure --device=vendor/class=x,required make
RUN ["a", 'b']
SHELL ["/bin/sh", "-e", "-c"]
STOPSIGNAL SIGTERM
USER me:$GROUP
VOLUME /a /b
VOLUME ["/c d", " /e "]
WORKDIR some where
CMD
CMD [ "a" ,"b" ]
CMD ["a"] b
