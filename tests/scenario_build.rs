//! The main job: base → COPY → RUN → image, cached the second time.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use support::{Lab, as_everybody, has, skip};

const APP: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM busybox\nENV GREETING=hello\nWORKDIR /app\nCOPY words.txt ./\nRUN echo \"$GREETING $(cat words.txt)\" >said\nCMD [\"cat\", \"/app/said\"]\n",
    ),
    ("words.txt", "world\n"),
];

#[test]
fn a_first_build_runs_its_steps_and_a_second_one_gives_the_same_image_from_the_cache() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("app", APP);
        let first = lab.build("app", &["-t", "app:1"]);
        assert_eq!(first.image.text("app/said"), "hello world\n");
        assert_eq!(first.image.config["config"]["Cmd"][0], "cat");
        assert_eq!(first.said.executed().len(), 3, "{}", first.said.stderr);
        let second = lab.build("app", &["-t", "app:1"]);
        assert_eq!(second.said.executed(), Vec::<String>::new(), "{}", second.said.stderr);
        assert_eq!(second.image.digest, first.image.digest);
    });
}

#[test]
fn what_a_run_writes_chowns_deletes_and_links_comes_out_as_a_layer_diff() {
    as_everybody(|lab| {
        lab.load_busybox();
        let script = "mkdir -p /a/b && echo x >/a/b/f && ln /a/b/f /a/b/g && ln -s ../b /a/s && chown 1000:50 /a/b/f && chmod 4755 /a/b/f \
            && rm /etc/group && rm -r /home && mkdir /home && mkfifo /a/p && chmod 755 /bin/busybox && chown 12345 /a/s -h";
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN {script}\n"))]);
        let built = lab.build("ctx", &[]);
        let layer = &built.image.layers[1];
        let names: Vec<&str> = layer.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/f", "a/b/g", "a/p", "a/s", "etc", "etc/.wh.group"], "{:?}", lab.who());
        let file = &built.image.files["a/b/f"];
        assert_eq!((file.mode, file.owner, file.content.as_slice()), (0o4755, (1000, 50), b"x\n".as_slice()));
        let node = |name: &str| &layer.iter().find(|(n, _)| n == name).expect("present").1;
        assert_eq!((node("a/b/g").kind, node("a/b/g").link.as_str()), ('1', "a/b/f"));
        assert_eq!((node("a/s").kind, node("a/s").link.as_str(), node("a/s").owner.0), ('2', "../b", 12345));
        assert_eq!(node("a/p").kind, '6');
        assert_eq!((node("etc/.wh.group").mode, node("etc/.wh.group").mtime), (0, 0));
        assert!(!built.image.files.contains_key("etc/group"));
    });
}

#[test]
fn a_command_runs_upon_steps_that_changed_nothing() {
    as_everybody(|lab| {
        lab.load_busybox();
        // In a store that has seen no empty layer yet.
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nWORKDIR /tmp\nRUN pwd >/where\nWORKDIR /home\nRUN pwd >>/where\n")]);
        let built = lab.build("ctx", &[]);
        assert_eq!(built.image.text("where"), "/tmp\n/home\n");
        assert_eq!(lab.build("ctx", &[]).said.executed(), Vec::<String>::new());
    });
}

#[test]
fn stages_copy_from_each_other_and_unused_ones_are_not_built() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context(
            "ctx",
            &[(
                "Dockerfile",
                "FROM busybox AS build\nRUN mkdir /out && echo made >/out/file && chown -R 1000:1000 /out && chmod 600 /out/file\n\
                 FROM busybox AS unused\nRUN false\n\
                 FROM scratch\nCOPY --from=build /out /dest/\nCOPY --from=busybox /etc/passwd /p\n",
            )],
        );
        let built = lab.build("ctx", &[]);
        let file = &built.image.files["dest/file"];
        assert_eq!((file.mode, file.owner, file.content.as_slice()), (0o600, (1000, 1000), b"made\n".as_slice()), "{:?}", lab.who());
        assert!(built.image.text("p").starts_with("root:"));
        assert_eq!(built.image.layers.len(), 2);
    });
}

#[test]
fn a_failing_step_shows_its_line_its_output_and_its_exit_code_and_leaves_no_image() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN true\nRUN echo on its way; exit 7\n")]);
        let said = lab.run(&["build", "--progress", "plain", "-t", "bad", "-o", "type=oci,dest=out.tar", "ctx"]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        for part in ["on its way", "Dockerfile:3", ">>> RUN echo on its way; exit 7", "did not complete successfully: exit code: 7", ".log"]
        {
            assert!(said.stderr.contains(part), "no {part:?} in:\n{}", said.stderr);
        }
        assert!(!lab.work("out.tar").exists());
        assert_ne!(lab.run(&["inspect", "bad"]).code, 0);
        assert_eq!(said.stdout, "");
        // Of an instruction's own lines the CR is taken off, of its heredoc's it is content.
        for (lines, is_told) in [("RUN <<EOF\r\nset -e\r\nEOF\r\n", true), ("RUN true \\\r\n && exit 7\r\n", false)] {
            lab.write("ctx/Dockerfile", format!("FROM busybox\r\n{lines}"));
            let said = lab.run(&["build", "ctx"]);
            assert_eq!((said.code, said.stderr.contains("hint: the lines of its heredoc end in CR LF")), (1, is_told), "{}", said.stderr);
        }
    });
}

#[test]
fn an_image_of_files_alone_is_built_where_namespaces_are_forbidden() {
    as_everybody(|lab| {
        let ctx = [
            ("Dockerfile", "FROM scratch AS a\nCOPY x /dir/x\nFROM scratch\nCOPY --from=a /dir /d\nCOPY --chown=5:6 x /e/\n"),
            ("x", "1\n"),
        ];
        lab.context("ctx", &ctx);
        let archive = lab.work("o.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let binary = lab.path("shale");
        let script = "echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_mnt_namespaces && exec \"$@\"";
        let args = ["-Ur", "sh", "-c", script, "sh", binary.to_str().expect("text"), "build", "--progress", "plain", "-o", &output, "ctx"];
        let said = support::Said::of(lab.command_of("unshare", &args).output().expect("unshare starts"));
        if said.stderr.contains("unshare:") {
            return skip("no namespaces", &said.stderr);
        }
        assert!(said.ok(), "{:?}:\n{}", lab.who(), said.stderr);
        let image = support::image::Image::read(&archive);
        assert_eq!((image.text("d/x").as_str(), image.files["e/x"].owner), ("1\n", (5, 6)));
    });
}

#[test]
fn other_tools_read_what_shale_writes() {
    let lab = Lab::new(support::Who::Caller);
    lab.load_busybox();
    lab.context("app", APP);
    let built = lab.build("app", &["-t", "app:1"]);
    if has("skopeo") {
        let out = lab.command_of("skopeo", &["inspect", &format!("oci-archive:{}", built.archive.display())]).output().expect("starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    } else {
        skip("skopeo", "not installed");
    }
}

#[test]
fn the_same_digest_comes_from_cold_stores_of_different_users_and_numbers_of_cores() {
    let dockerfile = "FROM busybox AS one\nRUN echo 1 >/one && chown 7 /one\nFROM busybox AS two\nCOPY f /f\nRUN rm /etc/group; ln /f /g\n\
        FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /f /g /sub/\nRUN mkdir /x && cat /one >/x/y\n";
    let digests = std::sync::Mutex::new(Vec::new());
    let epoch = "1600000000";
    let build = |lab: &Lab, prefix: &[&str], name: &str| {
        let archive = lab.work(name);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", archive.display());
        let binary = lab.path("shale");
        let mut words: Vec<&str> = prefix.to_vec();
        words.extend([binary.to_str().expect("text"), "build", "--progress", "plain", "-o", &output, "ctx"]);
        let out = lab.command_of(words[0], &words[1..]).env("SOURCE_DATE_EPOCH", epoch).output().expect("starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        (support::image::Image::read(&archive).digest, support::Said::of(out))
    };
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "content\n")]);
        digests.lock().expect("no panic").push(build(lab, &[], "a.tar").0);
        lab.run(&["builder", "prune", "--all", "--force"]);
        if has("taskset") {
            digests.lock().expect("no panic").push(build(lab, &["taskset", "-c", "0"], "b.tar").0);
        } else {
            skip("taskset", "not installed");
        }
        // A store that was filled without the epoch gives the same image, and nothing runs again.
        lab.run(&["builder", "prune", "--all", "--force"]);
        assert!(lab.run(&["build", "-q", "ctx"]).ok());
        let (digest, said) = build(lab, &[], "c.tar");
        assert_eq!(said.executed(), Vec::<String>::new(), "{}", said.stderr);
        digests.lock().expect("no panic").push(digest);
    });
    let digests = digests.into_inner().expect("no panic");
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
}

/// As where a package is replaced while a build runs: steps get the program that the build is, from a copy in memory.
#[test]
fn a_program_that_is_deleted_meanwhile_still_runs_steps() {
    as_everybody(|lab| {
        lab.load_busybox();
        // What belongs to another user is not root's alone, so that the worker writes the COPY as well.
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY --chown=5 f /\nRUN cat /f >/g\n"), ("f", "f\n")]);
        std::fs::copy(lab.path("shale"), lab.work("own")).expect("a copy");
        let script = "exec 9<own && rm own && exec /proc/self/fd/9 build -q -o type=tar,dest=out.tar ctx";
        let said = support::Said::of(lab.command_of("sh", &["-c", script]).output().expect("starts"));
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert!(!lab.work("own").exists() && lab.work("out.tar").exists());
    });
}

/// Whoever starts a program hands down which signals it ignores; Jenkins agents and init scripts ignore that of a child's end.
#[test]
fn a_build_started_by_one_that_waits_for_no_children_runs_steps() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo 1 >/f\n")]);
        let binary = lab.path("shale");
        let script = "trap '' CHLD && exec \"$0\" \"$@\"";
        let args = ["-c", script, binary.to_str().expect("text"), "build", "-q", "-o", "type=tar,dest=out.tar", "ctx"];
        let said = support::Said::of(lab.command_of("sh", &args).output().expect("starts"));
        assert!(said.ok() && lab.work("out.tar").exists(), "{:?}: {}", lab.who(), said.stderr);
    });
}

#[test]
fn a_workdir_is_as_old_as_the_epoch() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nWORKDIR /a/b\nRUN echo 1 >/f\n")]);
        let without = lab.build("ctx", &[]);
        assert!(without.image.files["a/b"].mtime > 1_600_000_000);
        for epoch in ["1500000000", "1400000000"] {
            let dated = lab.build("ctx", &["--build-arg", &format!("SOURCE_DATE_EPOCH={epoch}")]);
            let mtimes = ["a", "a/b"].map(|path| dated.image.files[path].mtime.to_string());
            assert_eq!(mtimes, [epoch, epoch], "{:?}", lab.who());
        }
    });
}

#[test]
fn a_program_privileged_on_this_machine_is_not_so_in_the_image() {
    let lab = Lab::new(support::Who::Caller);
    let ctx = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "1\n")]);
    // cap_net_bind_service, as `setcap` writes it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(error) = rustix::fs::setxattr(ctx.join("f"), "security.capability", &capability, flags) {
        return skip("capabilities of files", &error.to_string());
    }
    assert!(lab.build("ctx", &[]).image.files["f"].xattrs.is_empty());
}

/// As BuildKit does it: a layer that knows nothing of what is below would give the mode to the directories above, too.
#[test]
fn a_linked_copy_with_a_mode_goes_onto_what_is_there() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", ""), ("f", "f\n"), ("base/etc/x", "x\n"), ("base/real/x", "x\n")]);
        std::os::unix::fs::symlink("real", lab.work("ctx/base/lnk")).expect("a link");
        fs::set_permissions(lab.work("ctx/base/etc"), fs::Permissions::from_mode(0o1777)).expect("set");
        let files = |copies: &str| {
            lab.write("ctx/Dockerfile", format!("FROM scratch\nCOPY base /\n{copies}"));
            lab.build("ctx", &[]).image.files
        };
        let found = files("COPY --link --chmod=640 f /etc/f\nCOPY --link --chmod=600 f /lnk/f\n");
        let modes = ["etc", "etc/f", "real/f"].map(|path| found[path].mode);
        assert_eq!((modes, found["lnk"].kind), ([0o1777, 0o640, 0o600], '2'), "{:?}", lab.who());
        let found = files("COPY --link f /etc/f\nCOPY --link f /lnk/f\n");
        assert_eq!((found["etc"].mode, found["lnk"].kind, found["lnk/f"].mode), (0o755, '5', 0o644), "{:?}", lab.who());
    });
}

#[test]
fn an_owner_that_is_no_account_is_told() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY --chown=nobdy:root f /f\n"), ("f", "f\n")]);
        let built = lab.build("ctx", &[]);
        let told = "--chown=nobdy:root: there is no user \"nobdy\" in /etc/passwd: the files are root's";
        assert!(built.said.stderr.contains(told), "{:?}: {}", lab.who(), built.said.stderr);
        assert_eq!(built.image.files["f"].owner, (0, 0));
    });
}
