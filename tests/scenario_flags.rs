//! Every flag of Docker's build commands works, says that it has no effect, or is refused by name: `testdata/flags/build.txt`.

mod support;

use std::fs;

use support::{Lab, Said, Who};

#[test]
fn no_flag_is_ignored_in_silence() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch AS last\nARG A\nCOPY Dockerfile /\n")]);
    let _agent = std::os::unix::net::UnixListener::bind(lab.work("agent.sock")).expect("a socket");
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/flags/build.txt")).expect("the table");
    let rows: Vec<&str> = table.lines().filter(|row| !row.starts_with('#') && !row.is_empty()).collect();
    assert!(rows.len() > 70, "the table is not whole");
    let mut wrong = Vec::new();
    for row in rows {
        let (verdict, line) = row.split_once(" | ").expect("a verdict and a command line");
        let words: Vec<&str> = line.split(' ').collect();
        let mut build = lab.shale(&[&["build"][..], &words, &["ctx"]].concat());
        // No docker or podman that `--load` would fill.
        let said = Said::of(build.env("PATH", lab.path("home")).output().expect("shale starts"));
        let flag = words[0].split('=').next().unwrap_or_default();
        // A short flag is told by its long name, an attribute by its own.
        let names: Vec<&str> = match flag {
            "-m" => vec!["--memory"],
            "-c" => vec!["--cpu-shares"],
            "-D" => vec!["--debug"],
            // Without a name, in BuildKit's words.
            "--push" => vec!["pushing to registry"],
            "--load" => vec!["docker or podman"],
            "-o" => words[1].split(',').skip(1).map(|field| field.split('=').next().unwrap_or_default()).chain(["registry"]).collect(),
            flag => vec![flag],
        };
        let lines: Vec<&str> = said.stderr.lines().filter(|line| names.iter().any(|name| line.contains(name))).collect();
        let warned = said.ok() && lines.iter().filter(|line| line.contains("has no effect")).count() == 1;
        let refused = !said.ok() && !lines.is_empty() && !said.stderr.contains("unknown flag");
        let fits = match verdict {
            "works" => said.ok() && !said.stderr.contains("has no effect"),
            "warns" => warned,
            "refused" => refused,
            "unreachable" => !said.ok() && said.stderr.contains("cannot reach 127.0.0.1:1: Connection refused"),
            _ => panic!("{row}"),
        };
        if !fits {
            wrong.push(format!("{row}: exit {}\n{}", said.code, said.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_an_output_cannot_have_is_told() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for args in [
        &["-t", "r.test/a:1", "-o", "type=image,push=true,push-by-digest=true"][..],
        &["-o", "type=image,name=r.test/a:1,push=true,push-by-digest=true"],
    ] {
        let said = lab.run(&[&["build"][..], args, &["ctx"]].concat());
        assert!(!said.ok() && said.stderr.contains("can't push tagged ref r.test/a:1 by digest"), "{}", said.stderr);
    }
    let said = lab.run(&["build", "--iidfile", "id", "-o", "type=tar,dest=files.tar", "ctx"]);
    assert!(said.ok() && said.stderr.contains("WARNING: --iidfile: not written"), "{}", said.stderr);
    assert!(!lab.work("id").exists());
}

/// `/dev/stdout` is a link, which whoever removes it as root takes from everybody.
#[test]
fn a_link_to_the_output_stays_one() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nARG FILE\nCOPY $FILE /\n")]);
    let (link, target) = (lab.work("link"), lab.work("target"));
    std::os::unix::fs::symlink("target", &link).expect("a link");
    for (file, is_there) in [("Dockerfile", true), ("missing", false)] {
        fs::write(&target, "").expect("written");
        let said = lab.run(&["build", "--build-arg", &format!("FILE={file}"), "--iidfile", "link", "--metadata-file", "link", "ctx"]);
        assert_eq!(said.ok(), is_there, "{}", said.stderr);
        assert!(link.is_symlink(), "{file}");
        assert_eq!(fs::read_to_string(&target).is_ok_and(|text| !text.is_empty()), is_there, "{file}");
    }
}

/// A working directory or a configuration that is not to be had stops only what needs it.
#[test]
fn commands_run_without_what_they_do_not_need() {
    let lab = Lab::new(Who::Caller);
    let ctx = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let gone = lab.work("gone");
    fs::create_dir(&gone).expect("a folder");
    let in_gone = |words: &str| {
        let script = format!("cd {} && rmdir {} && exec \"$0\" {words}", gone.display(), gone.display());
        let shale = lab.shale(&[]).get_program().to_owned();
        fs::create_dir_all(&gone).expect("a folder");
        let mut command = lab.command_of("sh", &["-c", &script]);
        Said::of(command.arg(shale).output().expect("sh starts"))
    };
    let said = in_gone(&format!("build -q -t x {}", ctx.display()));
    assert!(said.ok(), "{}", said.stderr);
    assert_eq!(in_gone("images -q").stdout.lines().count(), 1);
    assert!(!in_gone("build .").ok());
    let kept = lab.write("kept/file", "");
    let said = in_gone(&format!("build -o type=local,dest={},mode=delete {}", lab.work("kept").display(), ctx.display()));
    assert!(!said.ok() && kept.exists(), "nothing lies below a directory that is gone: {}", said.stderr);

    lab.write("broken.toml", "[gc]\nmax-size = \n");
    let said = Said::of(lab.shale(&["images"]).env("SHALE_CONFIG", lab.work("broken.toml")).output().expect("shale starts"));
    assert!(said.stderr.contains("broken.toml: line 2: "), "{}", said.stderr);
    if !support::has_other() {
        return;
    }
    let other = Lab::new(Who::Played);
    let said = Said::of(other.shale(&["images"]).env("XDG_CONFIG_HOME", "/proc/1/root").output().expect("shale starts"));
    assert!(said.ok() && said.stderr.contains("WARNING: going on without /proc/1/root/shale/config.toml"), "{}", said.stderr);
}
