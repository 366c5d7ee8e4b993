ARG X
RUN early
ENV A=b
FROM scratch
