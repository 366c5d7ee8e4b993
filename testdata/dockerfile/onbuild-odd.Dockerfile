FROM scratch
onbuild   copy --from=x a b
ONBUILD CMD ["a"]
ONBUILD NOTHING really
