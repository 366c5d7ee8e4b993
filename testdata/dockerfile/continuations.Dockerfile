   # an indented comment
FROM \
  scratch AS \
# a comment within
  one
RUN first \   
  second \

   # with an empty line above, and this

  third
RUN ends with two \\
RUN a\
b
 RUN indented
RUN # is part of the command
run \
# the file ends within
