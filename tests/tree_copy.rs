//! COPY and ADD without a disk: selections over a view, grafted onto another.

use std::sync::Arc;

use shale::tree::accounts::Owner;
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::graft::{Graft, GraftError, Options, graft, make_dir};
use shale::tree::index::IndexBuilder;
use shale::tree::select::{self, Match, Matcher, SelectError, Selection};
use shale::tree::view::View;

/// A filesystem from lines `PATH MODE KIND [ARG]`: `d` directory, `f` file with its content, `l` symlink, `h` hard link, `s` none.
fn view(lines: &str) -> View {
    let mut builder = IndexBuilder::new();
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (path, arg) = (words[0], words.get(3).copied().unwrap_or_default());
        let (mode, owner) = words[1].split_once(':').unwrap_or((words[1], "0"));
        let file = |content: &str, hardlink: Option<&str>| Kind::File {
            size: content.len() as u64,
            digest: *blake3::hash(content.as_bytes()).as_bytes(),
            hardlink: hardlink.map(Into::into),
        };
        let kind = match words[2] {
            "d" => Kind::Dir,
            "f" => file(arg, None),
            "h" => file("", Some(arg)),
            "p" => Kind::Fifo,
            "w" => Kind::Whiteout,
            _ => Kind::Symlink { target: arg.into() },
        };
        let id = owner.parse().expect("an id");
        let mode = u32::from_str_radix(mode, 8).expect("octal");
        builder.push(Entry::new(path, kind, mode, id, id, Mtime { secs: 5, nanos: 6 }));
    }
    View::new(vec![Arc::new(builder.build())])
}

/// Matches whole paths by `*` and literal components, enough for these tests.
fn compile(patterns: &[&str]) -> Result<Matcher, String> {
    let patterns: Vec<Vec<String>> = patterns.iter().map(|p| p.split('/').map(str::to_owned).collect()).collect();
    if patterns.iter().flatten().any(|name| name == "[") {
        return Err("syntax error in pattern".into());
    }
    Ok(Box::new(move |path| {
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        patterns.iter().any(|pattern| {
            pattern.len() <= names.len() && pattern.iter().zip(&names).all(|(p, n)| shale::tree::glob::matches(p.as_bytes(), n))
        })
    }))
}

fn select(tree: &View, sources: &str, exclude: &[&str], parents: bool) -> Result<Selection, SelectError> {
    let sources: Vec<String> = sources.split_whitespace().map(str::to_owned).collect();
    let exclude: Vec<String> = exclude.iter().map(|s| (*s).to_owned()).collect();
    let mut selection = select::select(tree, &sources, &select::Options { exclude: &exclude, parents, compile: &compile })?;
    selection.digest(tree).expect("in memory");
    Ok(selection)
}

fn list(selection: &Selection) -> Vec<String> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let items = selection.matches.iter().flat_map(|m| m.items.iter().map(move |item| (m, item)));
    items
        .map(|(m, item)| {
            let way = if item.target().is_empty() { format!("[{}]", text(&m.name)) } else { text(item.target()) };
            format!("{way}={}{}", text(item.source()), if item.implied { "?" } else { "" })
        })
        .collect()
}

const SOURCE: &str = "
    a.txt 644 f a
    b.txt 4755:7 f b
    dir 700 d
    dir/sub 710:3 d
    dir/sub/x 600 f x
    dir/y.md 600 f y
    dir/link 777 l ../a.txt
    ldir 777 l dir/sub
    abs 777 l /dir/../../a.txt
    gone 777 l nowhere
    one 644 f same
    zwei 644 h one
    [odd] 644 f o
    deep 755 d
    deep/p 755 d
    deep/p/q 755 d
    deep/p/q/r 600 f r
";

#[test]
fn selects_sources() {
    let tree = view(SOURCE);
    let cases: &[(&str, &[&str])] = &[
        ("a.txt", &["[a.txt]=a.txt"]),
        ("/../../a.txt", &["[a.txt]=a.txt"]),
        ("dir", &["[dir]=dir", "link=dir/link", "sub=dir/sub", "sub/x=dir/sub/x", "y.md=dir/y.md"]),
        ("dir/", &["[dir]=dir", "link=dir/link", "sub=dir/sub", "sub/x=dir/sub/x", "y.md=dir/y.md"]),
        ("ldir", &["[ldir]=dir/sub", "x=dir/sub/x"]),
        ("ldir/x", &["[x]=dir/sub/x"]),
        ("abs", &["[abs]=a.txt"]),
        ("*.txt", &["[a.txt]=a.txt", "[b.txt]=b.txt"]),
        ("l*", &["[ldir]=dir/sub", "x=dir/sub/x"]),
        ("l*/x", &[]),
        ("*/sub/x", &["[x]=dir/sub/x"]),
        ("ldir/*", &["[x]=dir/sub/x"]),
        ("nothing*", &[]),
        ("dir/*/../nothing*", &[]),
        ("[[]odd]", &["[[odd]]=[odd]"]),
        ("b.txt a.txt", &["[b.txt]=b.txt", "[a.txt]=a.txt"]),
    ];
    for (sources, expected) in cases {
        assert_eq!(list(&select(&tree, sources, &[], false).expect(sources)), *expected, "{sources}");
    }
    for (source, path) in [("missing", "/missing"), ("gone", "/gone"), ("a.txt/x", "/a.txt/x"), ("no/x*", "/no"), ("g*", "/gone")] {
        match select(&tree, source, &[], false) {
            Err(SelectError::NotFound { path: found }) => assert_eq!(found, path),
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn selects_with_patterns() {
    let tree = view(SOURCE);
    let all = |sources, exclude: &[&str], parents| list(&select(&tree, sources, exclude, parents).expect(sources));
    assert_eq!(all("dir", &["sub", "*.md"], false), ["[dir]=dir", "link=dir/link"]);
    assert_eq!(all("deep/p/q/r", &[], true), ["[]=", "deep=deep?", "deep/p=deep/p?", "deep/p/q=deep/p/q?", "deep/p/q/r=deep/p/q/r"]);
    assert_eq!(all("deep/./p/q", &[], true), ["[deep]=deep", "p=deep/p?", "p/q=deep/p/q", "p/q/r=deep/p/q/r"]);
    assert_eq!(all("/deep/*/./q*", &[], true), ["[p]=deep/p", "q=deep/p/q", "q/r=deep/p/q/r"]);
    assert_eq!(all("deep/./z*", &[], true), ["[deep]=deep"]);
    assert!(matches!(select(&tree, "deep/./z", &[], true), Err(SelectError::NotFound { path }) if path == "/deep/z"));
    assert!(matches!(select(&tree, "./deep/./", &[], true), Err(SelectError::NotFound { path }) if path == "/deep"));
    assert!(matches!(select(&tree, ".", &[], true), Err(SelectError::NotFound { path }) if path == "/"));
    assert!(matches!(select(&tree, "dir", &["["], false), Err(SelectError::Pattern { .. })));
}

fn canonical_of(selection: &Selection, with_owners: bool) -> Vec<u8> {
    let mut text = Vec::new();
    selection.canonical(with_owners, &mut text).expect("memory");
    text
}

#[test]
fn the_key_sees_all_but_times() {
    let canonical = |selection: &Selection| canonical_of(selection, true);
    let base = select(&view(SOURCE), "dir a.txt one zwei", &[], false).expect("selects");
    let other =
        |from: &str, to: &str| canonical(&select(&view(&SOURCE.replace(from, to)), "dir a.txt one zwei", &[], false).expect("selects"));
    assert_eq!(other("", ""), canonical(&base));
    for (from, to) in
        [("x 600 f x", "x 600 f z"), ("x 600 f x", "x 601 f x"), ("710:3", "710:4"), ("../a.txt", "../b.txt"), ("f same", "f diff")]
    {
        assert_ne!(other(from, to), canonical(&base), "{from} {to}");
    }
    let mut later = base.clone();
    for item in later.matches.iter_mut().flat_map(|m| &mut m.items) {
        item.node.mtime.secs += 1;
        item.node.path.insert(0, b'~');
        item.above += 1;
    }
    assert_eq!(canonical(&later), canonical(&base));
    let mut owned = base.clone();
    owned.matches[0].items[0].node.uid = 9;
    assert_ne!(canonical(&owned), canonical(&base));
    assert_eq!(canonical_of(&owned, false), canonical_of(&base, false));
}

fn lines(graft: &Graft) -> Vec<String> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    graft
        .items
        .iter()
        .map(|item| {
            let e = &item.entry;
            let kind = match &e.kind {
                Kind::Dir => "d".to_owned(),
                Kind::File { hardlink: Some(first), .. } => format!("h {}", text(first)),
                Kind::File { size, .. } => format!("f {size}"),
                Kind::Symlink { target } => format!("l {}", text(target)),
                Kind::Whiteout => "w".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{} {:o}:{} {kind}", text(&e.path), e.mode, e.uid)
        })
        .collect()
}

fn copy(parent: &View, sources: &str, destination: &str, owner: Option<u32>, chmod: Option<u32>) -> Result<Graft, GraftError> {
    let selection = select(&view(SOURCE), sources, &[], false).expect("selects");
    graft(parent, &selection, &options(destination, owner, chmod))
}

fn options(destination: &str, owner: Option<u32>, chmod: Option<u32>) -> Options {
    let owner = owner.map(|id| Owner { uid: id, gid: id });
    Options {
        destination: destination.to_owned(),
        owner,
        chmod: chmod.map(shale::tree::chmod::Chmod::Octal),
        created: Mtime { secs: 9, nanos: 0 },
    }
}

const PARENT: &str = "
    app 711:5 d
    app/sub 700:5 d
    app/y.md 755 d
    file 644 f old
    link 777 l app
    dangling 777 l new/place
    into 777 l file
    srv 755 d
    srv/sub 644 f file
";

#[test]
fn grafts_by_buildkits_rules() {
    let parent = view(PARENT);
    let cases: &[(&str, &str, Option<u32>, Option<u32>, &[&str])] = &[
        // A file: beside, into a directory, through links, with parents made.
        ("a.txt", "/x", None, None, &["x 644:0 f 1"]),
        ("b.txt", "/x", None, None, &["x 4755:7 f 1"]),
        ("b.txt", "/x", Some(3), None, &["x 4755:3 f 1"]),
        ("b.txt", "/x", Some(3), Some(0o2640), &["x 2640:3 f 1"]),
        ("a.txt", "/x/", None, None, &["x 755:0 d", "x/a.txt 644:0 f 1"]),
        ("a.txt", "/x/.", Some(3), Some(0o4700), &["x 700:3 d", "x/a.txt 4700:3 f 1"]),
        ("a.txt", "/n/m/x", Some(4), None, &["n 755:4 d", "n/m 755:4 d", "n/m/x 644:4 f 1"]),
        ("a.txt", "/app", None, None, &["app 711:5 d", "app/a.txt 644:0 f 1"]),
        ("a.txt", "/link/", None, None, &["app 711:5 d", "app/a.txt 644:0 f 1"]),
        ("a.txt", "/file", None, None, &["file 644:0 f 1"]),
        ("a.txt", "/into", None, None, &["file 644:0 f 1"]),
        ("a.txt", "/dangling", None, None, &["new 755:0 d", "new/place 644:0 f 1"]),
        ("abs", "/app/", None, None, &["app 711:5 d", "app/abs 644:0 f 1"]),
        // A directory: its content goes in, the destination keeps its metadata, directories below do not.
        ("dir/sub", "/new", None, None, &["new 755:0 d", "new/x 600:0 f 1"]),
        ("dir/sub", "/new", Some(6), None, &["new 755:6 d", "new/x 600:6 f 1"]),
        ("dir/sub", "/app", None, None, &["app 711:5 d", "app/x 600:0 f 1"]),
        ("dir/sub", "/", None, None, &["x 600:0 f 1"]),
        (
            "deep",
            "/app/sub",
            None,
            None,
            &["app 711:5 d", "app/sub 700:5 d", "app/sub/p 755:0 d", "app/sub/p/q 755:0 d", "app/sub/p/q/r 600:0 f 1"],
        ),
        (
            "dir",
            "/fresh",
            None,
            Some(0o750),
            &["fresh 750:0 d", "fresh/link 777:0 l ../a.txt", "fresh/sub 750:3 d", "fresh/sub/x 750:0 f 1", "fresh/y.md 750:0 f 1"],
        ),
        // Several matches, links among one match only, wildcards onto one name.
        ("a.txt one zwei", "/d/", None, None, &["d 755:0 d", "d/a.txt 644:0 f 1", "d/one 644:0 f 4", "d/zwei 644:0 f 4"]),
        ("*.txt", "/x", None, None, &["x 4755:7 f 1"]),
        ("nothing*", "/x/", None, None, &[]),
    ];
    for (sources, destination, owner, chmod, expected) in cases {
        let made = copy(&parent, sources, destination, *owner, *chmod).expect(sources);
        assert_eq!(lines(&made), *expected, "{sources} -> {destination}");
        // What is made again with the same facts is the same.
        let facts = copy(&parent, sources, destination, *owner, *chmod).expect(sources).facts;
        assert_eq!(facts, made.facts);
    }
    let whole = copy(&View::default(), ".", "/", None, None).expect("copies");
    assert!(lines(&whole).contains(&"zwei 644:0 h one".to_owned()), "{:?}", lines(&whole));
    let merged = copy(&view("app 711:5 d\napp/sub 700:5 d"), "dir/../dir", "/app", None, None).expect("merges");
    assert_eq!(lines(&merged)[2], "app/sub 710:3 d");
}

#[test]
fn refuses_what_buildkit_refuses() {
    let parent = view(PARENT);
    let path = |p: &str| p.to_owned();
    let cases = [
        ("dir", "/srv", GraftError::DirectoryOverFile { path: path("/srv/sub") }),
        ("dir", "/app", GraftError::FileOverDirectory { path: path("/app/y.md") }),
        ("dir", "/file", GraftError::DirectoryOverFile { path: path("/file") }),
        ("a.txt", "/file/", GraftError::NotADirectory { path: path("/file") }),
        ("a.txt", "/file/x/y", GraftError::NotADirectory { path: path("/file") }),
    ];
    for (sources, destination, error) in cases {
        assert_eq!(copy(&parent, sources, destination, None, None), Err(error), "{sources} -> {destination}");
    }
}

#[test]
fn facts_are_what_the_layer_depends_on() {
    let facts = |parent: &str, destination: &str| copy(&view(parent), "a.txt", destination, None, None).expect("copies").facts;
    let base = facts(PARENT, "/app/x");
    // Another content, other paths: the same layer.
    assert_eq!(facts(&PARENT.replace("f old", "f new"), "/app/x"), base);
    assert_eq!(facts(&PARENT.replace("srv", "var"), "/app/x"), base);
    // Another mode of the directory, another thing in the way: not the same.
    assert_ne!(facts(&PARENT.replace("711:5", "710:5"), "/app/x"), base);
    assert_ne!(facts(&format!("{PARENT}\napp/x 755 d"), "/app/x"), base);
    assert_ne!(facts(&PARENT.replace("link 777 l app", "link 777 l srv"), "/link/x"), facts(PARENT, "/link/x"));
}

#[test]
fn heredocs_and_directories() {
    let inline = Match::inline(0, "conf", b"text", Mtime { secs: 1, nanos: 0 });
    let selection = Selection { matches: vec![inline] };
    let made = graft(&view(PARENT), &selection, &options("/app/", None, None)).expect("copies");
    assert_eq!(lines(&made), ["app 711:5 d", "app/conf 644:0 f 4"]);
    assert_eq!(made.items[1].from, Some((0, 0)));

    let owner = Owner { uid: 8, gid: 8 };
    let made = |path| make_dir(&view(PARENT), path, owner, Mtime::default()).map(|g| lines(&g));
    assert_eq!(made("/app/deeper/still"), Ok(vec!["app 711:5 d".into(), "app/deeper 755:8 d".into(), "app/deeper/still 755:8 d".into()]));
    assert_eq!(made("/link"), Ok(vec![]));
    assert_eq!(made("/file"), Err(GraftError::NotADirectory { path: "/file".into() }));
}

#[test]
fn archives_replace_what_is_there() {
    let members = select(&view("d 700 d\nd/sub 755 d\nd/sub/k 600 f k\nd/y.md 644 f y\nd/l 777 l ../../etc\nd/z 600 f z"), "d", &[], false)
        .expect("selects");
    let mut archive = members.matches[0].clone();
    archive.archive = true;
    // A member written through a link stays below the destination.
    let last = archive.items.len() - 1;
    archive.items[last].node.path = b"d/l/z".to_vec();
    let selection = Selection { matches: vec![archive] };
    let parent = view(&format!("{PARENT}\napp/y.md/inside 644 f i\nsrv/sub2 755 d"));
    let made = graft(&parent, &selection, &options("/app", Some(2), None)).expect("unpacks");
    assert_eq!(
        lines(&made),
        [
            "app 711:5 d",
            "app/etc 755:0 d",
            "app/etc/z 600:2 f 1",
            "app/l 777:2 l ../../etc",
            "app/sub 755:2 d",
            "app/sub/k 600:2 f 1",
            "app/y.md 644:2 f 1"
        ]
    );
    let made = graft(&parent, &selection, &options("/srv", None, None)).expect("unpacks");
    assert!(lines(&made).contains(&"srv/sub 755:0 d".to_owned()), "{:?}", lines(&made));
}
