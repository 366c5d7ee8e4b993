# A comment ends the header.
# escape=`
FROM scratch
RUN a `
RUN b \
 c
