use super::*;

const ENV: &[(&str, &str)] =
    &[("NAME", "layer"), ("EMPTY", ""), ("PATHS", "/usr/lib:/opt/lib"), ("TWO", "a  b"), ("STAR", "x*y"), ("P", "*/"), ("größe", "7")];

fn env(name: &str) -> Option<String> {
    ENV.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned())
}

fn text(word: &str) -> String {
    match expand(word, '\\', &env) {
        Ok(e) => e.text,
        Err(e) => format!("! {}", e.reason),
    }
}

#[test]
fn words_expand() {
    let table = [
        // Plain text, quotes, escapes.
        ("plain", "plain"),
        ("a b", "a b"),
        ("'a  b'c", "a  bc"),
        (r"a\ b", "a b"),
        (r#""a\"b""#, "a\"b"),
        (r#""a\tb""#, r"a\tb"),
        (r"'a\tb'", r"a\tb"),
        (r"a\tb", "atb"),
        (r"end\", "end"),
        ("'open", "! unexpected end of statement while looking for matching single-quote"),
        ("\"open", "! unexpected end of statement while looking for matching double-quote"),
        // References.
        ("$NAME-$NAME", "layer-layer"),
        ("${NAME}s", "layers"),
        ("$NAMEs", ""),
        ("'$NAME'", "$NAME"),
        ("\"$NAME\"", "layer"),
        (r"\$NAME", "$NAME"),
        ("$größe", "7"),
        ("$", "$"),
        ("$.", "$."),
        ("$12x", "x"),
        ("$?x", "x"),
        ("${NAME", "! syntax error: missing '}'"),
        ("${", "! syntax error: missing '}'"),
        ("${}", "! syntax error: bad substitution"),
        ("${:-x}", "! syntax error: bad substitution"),
        // Defaults.
        ("${NO:-w}", "w"),
        ("${EMPTY:-w}", "w"),
        ("${EMPTY-w}", ""),
        ("${NAME:-w}", "layer"),
        ("${NO:-${NO2:-$NAME}}", "layer"),
        ("${NO:-'a b'}", "a b"),
        ("${NAME:+w}", "w"),
        ("${EMPTY:+w}", ""),
        ("${EMPTY+w}", "w"),
        ("${NO+w}", ""),
        // Demands.
        ("${NAME:?gone}", "layer"),
        ("${NO?}", "! NO: is not allowed to be unset"),
        ("${NO:?}", "! NO: is not allowed to be unset"),
        ("${EMPTY:?}", "! EMPTY: is not allowed to be empty"),
        ("${EMPTY?}", ""),
        ("${NO:?set NO please}", "! NO: set NO please"),
        // Patterns.
        ("${PATHS#*/}", "usr/lib:/opt/lib"),
        ("${PATHS##*/}", "lib"),
        ("${PATHS%/*}", "/usr/lib:/opt"),
        ("${PATHS%%:*}", "/usr/lib"),
        ("${PATHS%%lib}", "/usr/lib:/opt/"),
        ("${PATHS#nothing}", "/usr/lib:/opt/lib"),
        (r"${STAR%\*y}", "x"),
        ("${PATHS/lib/bin}", "/usr/bin:/opt/lib"),
        ("${PATHS//lib/bin}", "/usr/bin:/opt/bin"),
        (r"${PATHS//\//-}", "-usr-lib:-opt-lib"),
        ("${PATHS//l?b/}", "/usr/:/opt/"),
        ("${PATHS/$P/}", "lib"),
        ("${NO/a/b}", ""),
        (r"${NAME#\a}", r"! invalid pattern (\a) in substitution: invalid escape '\a'"),
        ("${NAME/a}", "! syntax error: missing '/' in ${}"),
        ("${NAME/a/b", "! syntax error: missing '}'"),
        ("${NAME:#a}", "! unsupported modifier (:#) in substitution"),
        ("${NAME:=a}", "! unsupported modifier (:=) in substitution"),
        ("${NAME=a}", "! unsupported modifier (=) in substitution"),
    ];
    for (word, expected) in table {
        assert_eq!(text(word), expected, "{word}");
    }
}

#[test]
fn names_are_reported_once_in_order() {
    let e = expand("$B $NAME ${A:-x} $B ${NAME}", '\\', &env).unwrap();
    assert_eq!(e.unmatched, ["B", "A"]);
    assert_eq!(e.matched, ["NAME"]);
    assert_eq!(expand("'$B' \\$A", '\\', &env).unwrap().unmatched, [""; 0]);
}

#[test]
fn words_split_outside_quotes() {
    let table: &[(&str, &[&str])] = &[
        ("80 443/tcp", &["80", "443/tcp"]),
        ("  80\t443  ", &["80", "443"]),
        ("$TWO", &["a", "b"]),
        ("\"$TWO\" c", &["a  b", "c"]),
        ("x${TWO}y", &["xa", "by"]),
        (r"a\ b c", &["a b", "c"]),
        ("'' \"\"", &[]),
        ("$EMPTY", &[]),
        // A default does not disturb the word that it stands in.
        ("80${NO:-80}/tcp", &["8080/tcp"]),
        ("cat << EOF", &["cat", "<< EOF"]),
    ];
    for (word, expected) in table {
        assert_eq!(expand_words(word, '\\', &env).unwrap(), *expected, "{word}");
    }
}

#[test]
fn the_escape_character_can_be_a_backtick() {
    assert_eq!(expand(r"c:\$NAME`$NAME", '`', &env).unwrap().text, r"c:\layer$NAME");
}

#[test]
fn heredoc_bodies_keep_their_quotes() {
    let e = expand_raw("it's \"$NAME\" \\$NAME '$NO'\n\tend\n", &env).unwrap();
    assert_eq!(e.text, "it's \"layer\" $NAME ''\n\tend\n");
    assert_eq!(e.unmatched, ["NO"]);
}

#[test]
fn display_keeps_what_is_unset() {
    let shown = |t| expand_display(t, '\\', &env).unwrap().text;
    assert_eq!(shown("run \"$NAME\" $NO ${NO} ${NO:-x} ${NO/a/b}"), "run \"layer\" $NO ${NO} ${NO:-x} ${NO/a/b}");
}

#[test]
fn some_variables_stay_as_written() {
    let kept = |lexer: Lexer, text: &str| lexer.expand_but(text, &env, &|name| name == "NAME").unwrap().text;
    let text = "run \"$NAME\" ${NAME} ${NAME:-x} ${NAME/a/b} ${NAME%r} ${NO:-$NAME}";
    assert_eq!(kept(Lexer::for_display('\\'), &format!("{text} $NO")), format!("{text} $NO"));
    assert_eq!(kept(Lexer::new('\\'), "copy $NAME ${NAME}/$NO."), "copy $NAME ${NAME}/.");
}

#[test]
fn errors_quote_the_whole_word() {
    let error = expand("a\t\"${}", '\\', &env).unwrap_err();
    assert_eq!(error.to_string(), "failed to process \"a\\t\\\"${}\": syntax error: bad substitution");
}

#[test]
fn no_text_grows_beyond_all_bounds() {
    let long = |_: &str| Some("x".repeat(MAX_BYTES / 2));
    for word in ["$A$A", "\"$A$A\"", "${A}${B:-$A}"] {
        assert_eq!(expand(word, '\\', &long).expect(word).text.len(), MAX_BYTES);
        let error = expand(&format!("{word}{word}"), '\\', &long).expect_err(word);
        assert_eq!(error.reason, WordFault::TooLong);
    }
    assert_eq!(expand("${A//x/$A}", '\\', &long).expect_err("a square").reason, WordFault::TooLong);
}

#[test]
fn patterns_reverse() {
    for (pattern, expected) in [("ab", "ba"), (r"a\*", r"\*a"), (r"x\\y", r"y\\x"), (r"a\", r"\a"), ("", "")] {
        assert_eq!(pattern::reverse_pattern(pattern), expected);
    }
}
