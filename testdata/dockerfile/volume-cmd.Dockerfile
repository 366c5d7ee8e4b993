FROM busybox
VOLUME /data
CMD ["bin/true"]
