//! The rules of the code base that the compiler does not know: who may depend on what, who may touch the world, how long things
//! may be. ARCHITECTURE.md gives the reasons. Every finding names file, line, rule and the way out.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LIMIT: usize = 600;
/// Lines of a function.
const FUNCTION_LIMIT: usize = 80;

/// A rule that forbids words in some files.
struct Rule {
    name: &'static str,
    /// Whether the rule holds in a file (path from the root of the repository).
    holds_in: fn(&str) -> bool,
    /// What must not stand there.
    words: &'static [&'static str],
    /// What to do instead.
    instead: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        name: "pure modules do no IO, read no environment and no clock, start no thread",
        holds_in: is_pure,
        words: &[
            "std::fs",
            "fs::read",
            "fs::File",
            "File::open",
            "std::env::var",
            "env::args",
            "env::current_dir",
            "std::thread",
            "thread::spawn",
            "SystemTime",
            "Instant",
            "std::process",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "ToSocketAddrs",
            "rustix::",
            "libc::",
            "rayon::",
        ],
        instead: "take text or values as arguments and let the caller read them",
    },
    Rule {
        name: "the front half knows nothing of the back half",
        holds_in: |file| within(file, &["src/dockerfile", "src/plan"]),
        words: &["crate::solve", "crate::execute", "crate::export", "crate::worker", "crate::sandbox", "crate::pipeline", "shale_cache"],
        instead: "the halves meet at plan::graph::Plan",
    },
    Rule {
        name: "the back half never sees a Dockerfile",
        holds_in: |file| {
            within(file, &["src/solve", "src/execute", "src/export", "src/image", "src/layer", "src/tree", "src/worker", "src/sandbox"])
        },
        words: &["crate::dockerfile", "dockerfile::ast", "dockerfile::parse"],
        instead: "put what is needed into the graph",
    },
    Rule {
        name: "solve sees execute only through its trait",
        holds_in: |file| within(file, &["src/solve"]),
        words: &["crate::execute", "crate::worker", "crate::sandbox"],
        instead: "extend solve's Executor trait",
    },
    Rule {
        name: "the library does not know the command line",
        holds_in: |file| within(file, &["src"]) && !within(file, &["src/cli", "src/main.rs", "src/pipeline.rs", "src/pipeline"]),
        words: &["crate::cli"],
        instead: "report events, return errors with data; cli words them",
    },
    Rule {
        name: "only cli reads arguments (and the worker, which is started by its name)",
        holds_in: |file| !within(file, &["src/cli", "src/main.rs", "src/worker"]),
        words: &["env::args"],
        instead: "take it as a field of the request",
    },
    Rule {
        name: "only cli reads environment, working directory and terminal",
        holds_in: |file| !within(file, &["src/cli", "src/main.rs"]),
        words: &["env::var", "env::vars", "env::current_dir", "env::home_dir", "env::temp_dir", "is_terminal", "tcgetwinsize"],
        instead: "take it as a field of the request; cli::environment reads it",
    },
    Rule {
        name: "only cli prints",
        holds_in: |file| !within(file, &["src/cli", "src/main.rs"]),
        words: &["println!", "eprintln!", "print!(", "eprint!(", "dbg!", "io::stdout(", "io::stderr("],
        instead: "report an event or return the text",
    },
    Rule {
        name: "cli prints through console and progress",
        holds_in: |file| within(file, &["src/cli"]),
        words: &["println!", "eprintln!", "print!(", "eprint!("],
        instead: "use cli::console, which knows closed pipes",
    },
    Rule {
        name: "unsafe code stands in one file",
        holds_in: |file| file != "src/sandbox/sys.rs",
        words: &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"],
        instead: "add a safe function to sandbox::sys",
    },
    Rule {
        name: "lints are expected with a reason, not allowed",
        holds_in: |_| true,
        words: &["#[allow(", "#![allow("],
        instead: "#[expect(…, reason = \"…\")]",
    },
    Rule {
        name: "what is not written yet is not in the tree",
        holds_in: |_| true,
        words: &["todo!(", "unimplemented!("],
        instead: "write it, or leave the function out",
    },
];

/// A finding that is right and stays: file, word, reason. One that no longer applies is a finding itself.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("src/tree/index.rs", "std::fs", "an index is mapped by its path: the map is the value"),
    ("src/tree/index.rs", "fs::File", "as above"),
    ("src/tree/index.rs", "File::open", "as above"),
    ("src/pipeline/output.rs", "io::stdout(", "`--output dest=-` asks for the image itself there"),
];

const BAD_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];

fn is_pure(file: &str) -> bool {
    within(
        file,
        &[
            "src/dockerfile",
            "src/plan",
            "src/oci",
            "src/tree",
            "src/solve/key.rs",
            "src/solve/explain.rs",
            "src/solve/explain",
            "src/span.rs",
        ],
    ) && !within(file, &["src/tree/walk.rs", "src/tree/walk"])
}

/// Whether a file is one of these or below one of them.
fn within(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The lines of a file that are program text: comments are blank, the test module at the end is cut off.
fn program_lines(text: &str) -> Vec<String> {
    let end = text.find("\n#[cfg(test)]\nmod tests").map_or(text.len(), |n| n + 1);
    text[..end].lines().map(without_comment).collect()
}

/// A line without its `//` comment and without the text of its strings.
fn without_comment(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            // A quote as a character literal opens no string.
            '\'' if !in_string && chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => {
                in_string = !in_string;
                out.push(c);
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            c => out.push(c),
        }
    }
    out
}

fn findings(file: &str, text: &str) -> Vec<String> {
    let lines = program_lines(text);
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| (rule.holds_in)(file)) {
        for (number, line) in lines.iter().enumerate() {
            for word in rule.words.iter().filter(|word| stands_in(line, word)) {
                if !EXCEPTIONS.iter().any(|(f, w, _)| f == &file && w == word) {
                    found.push(format!("{file}:{}: {}: `{word}`; {}", number + 1, rule.name, rule.instead));
                }
            }
        }
    }
    let used = |word: &str| lines.iter().any(|line| stands_in(line, word));
    for (_, word, reason) in EXCEPTIONS.iter().filter(|(f, word, _)| *f == file && !used(word)) {
        found.push(format!("{file}: the exception for `{word}` ({reason}) is no longer needed; take it out of tests/tidy.rs"));
    }
    if lines.len() > FILE_LIMIT {
        found.push(format!("{file}: {} lines without tests, the limit is {FILE_LIMIT}; split it by noun", lines.len()));
    }
    found.extend(long_functions(file, &lines));
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let parts = file.split('/').chain([stem]);
    for part in parts.filter(|part| part.split('_').any(|word| BAD_NAMES.contains(&word))) {
        found.push(format!("{file}: `{part}` says nothing; name the module after the thing it is about"));
    }
    found
}

/// Whether `word` stands in a line, not as the end of a longer name.
fn stands_in(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') || !word.starts_with(char::is_alphanumeric)
    })
}

/// Functions past the limit. Formatted code closes a function at the column where it began.
fn long_functions(file: &str, lines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let mut words = code
            .split_whitespace()
            .skip_while(|word| matches!(*word, "pub" | "const" | "unsafe" | "async" | "extern") || word.starts_with("pub("));
        let (Some("fn"), Some(name)) = (words.next(), words.next()) else { continue };
        let indent = line.len() - code.len();
        let is_end = |line: &String| line.trim_end() == format!("{:indent$}}}", "");
        let Some(length) = lines[start..].iter().position(is_end) else { continue };
        if length + 1 > FUNCTION_LIMIT {
            let name = name.split(['(', '<']).next().unwrap_or(name);
            found.push(format!(
                "{file}:{}: fn {name} has {} lines, the limit is {FUNCTION_LIMIT}; push ifs up and fors down",
                start + 1,
                length + 1
            ));
        }
    }
    found
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn the_source_follows_the_rules() {
    let root = std::env::var_os("SHALE_TIDY_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let mut files = Vec::new();
    for dir in ["src", "cache/src"] {
        rust_files(&root.join(dir), &mut files);
    }
    files.sort();
    assert!(files.len() > 50, "only {} files found under {}", files.len(), root.display());
    let mut report = String::new();
    for path in files {
        let file = path.strip_prefix(&root).expect("found below the root").to_str().expect("UTF-8 names").to_owned();
        if within(&file, &["cache/src/testing.rs"]) || file.ends_with("/tests.rs") || file.contains("/tests/") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {file}: {e}"));
        for finding in findings(&file, &text) {
            writeln!(report, "  {finding}").expect("a String takes everything");
        }
    }
    assert!(report.is_empty(), "the source breaks its own rules:\n{report}");
}

#[test]
fn the_tests_are_never_ignored() {
    let mut files = Vec::new();
    for dir in ["src", "cache", "tests"] {
        rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files);
    }
    let word = concat!("#[ig", "nore");
    let ignored: Vec<_> = files.iter().filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(word))).collect();
    assert!(ignored.is_empty(), "a test that cannot run here says so by name (SKIP: …) and is not ignored: {ignored:?}");
}

#[test]
fn each_rule_finds_what_it_forbids() {
    for (file, text, part) in [
        ("src/plan/scope.rs", "use std::fs;", "pure modules"),
        ("src/tree/view.rs", "let now = Instant::now();", "pure modules"),
        ("src/plan/stage.rs", "use crate::solve::event::Event;", "front half"),
        ("src/export/mod.rs", "use crate::dockerfile::ast::Stage;", "back half"),
        ("src/solve/step.rs", "crate::execute::step()", "through its trait"),
        ("src/image/mod.rs", "use crate::cli::human;", "does not know the command line"),
        ("src/source/context.rs", "std::env::var(\"HOME\")", "only cli reads"),
        ("cache/src/store.rs", "println!(\"x\")", "only cli prints"),
        ("src/cli/images.rs", "println!(\"x\")", "through console"),
        ("src/tree/index.rs", "let x = unsafe { y() };", "unsafe"),
        ("src/oci/mod.rs", "#[allow(dead_code)]", "expected with a reason"),
        ("src/layer/mod.rs", "    todo!()", "not written yet"),
        ("src/layer/tar_util.rs", "", "says nothing"),
        ("src/layer/helpers/mod.rs", "", "says nothing"),
    ] {
        let found = findings(file, text);
        assert!(found.iter().any(|finding| finding.contains(part)), "{file}: {text:?} gave {found:?}");
    }
    assert!(findings("src/layer/mod.rs", &"let x = 1;\n".repeat(FILE_LIMIT + 1))[0].contains("split it"));
    let long = format!("impl X {{\n    pub(crate) fn long<T>() {{\n{}    }}\n}}\n", "        a();\n".repeat(FUNCTION_LIMIT));
    assert!(findings("src/layer/mod.rs", &long)[0].contains("fn long has 82 lines"), "{:?}", findings("src/layer/mod.rs", &long));
}

#[test]
fn what_is_allowed_is_not_found() {
    for (file, text) in [
        ("src/plan/scope.rs", "// std::fs is not for us\nlet text = \"std::fs and println! \\\" todo!(\";\n"),
        ("src/plan/scope.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"),
        ("src/tree/walk.rs", "use rustix::fs;"),
        ("src/oci/platform.rs", "std::env::consts::ARCH"),
        ("src/sandbox/sys.rs", "unsafe { libc::x() }"),
        ("src/cli/environment.rs", "std::env::vars_os()"),
        ("src/source/context.rs", "use std::fs;"),
    ] {
        assert_eq!(findings(file, text), [""; 0], "{file}");
    }
}
