# syntax=example/frontend:1 and a remark
# ESCAPE = `
#check=skip=JSONArgsRecommended
# escape=\
# The header ended one line above: that directive was the second of its kind.

FROM scratch
