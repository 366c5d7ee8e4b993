# escape=`

FROM windows AS win
COPY a.txt c:\
RUN dir `
    c:\
ENV P=c:\x` y Q="a`"b"
USER last`
