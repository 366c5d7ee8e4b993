FROM scratch
RUN <<EOF
# not a comment
echo "$HOME" \
RUN echo
EOF
RUN --network=none <<-'END' cat
	one
		two
	END
COPY <<a.txt <<"b.txt" c.txt /dest/
A $X
a.txt
B $X
b.txt
RUN 3<<X cat <&3 && cat << Y
x
X
y
Y
RUN ["cat", "<<EOF"]
RUN echo '<<EOF' "<<EOF" <<<EOF
ADD --chmod=644 <<F /f
F
ONBUILD RUN <<T
t
T
CMD <<EOF
