//! RUN --mount: what a step sees, what of it stays, and what does not get out.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use support::{Lab, Who, as_everybody};

fn ctx(lab: &Lab, dockerfile: &str) {
    lab.context("ctx", &[("Dockerfile", dockerfile)]);
}

#[test]
fn a_bound_context_is_a_selection_and_not_the_live_directory() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox\nWORKDIR /w\nRUN --mount=target=/src --mount=source=dir/one,target=one \
            ls -A /src >/seen && stat -c '%u:%g' /src/kept >>/seen && cat one >>/seen && ! touch /src/x 2>/dev/null\n\
            RUN --mount=target=/src,rw touch /src/new && ls /src/new >/rw\nRUN test ! -e /src && test ! -e /w/one\n";
        let files =
            [("Dockerfile", dockerfile), (".dockerignore", "hidden\nDockerfile\n"), ("kept", "1"), ("hidden", "2"), ("dir/one", "one\n")];
        lab.context("ctx", &files);
        let built = lab.build("ctx", &[]);
        assert_eq!(built.image.text("seen"), ".dockerignore\ndir\nkept\n0:0\none\n", "{:?}", lab.who());
        assert_eq!(built.image.text("rw"), "/src/new\n");
        // Neither what was written to the bind nor mount points are in the layers, and nothing came back into the context.
        let all: Vec<&String> = built.image.layers.iter().skip(1).flatten().map(|(name, _)| name).collect();
        assert_eq!(all, ["w", "seen", "rw"]);
        assert!(!lab.work("ctx/new").exists());
        // A file that is ignored is not read, and not a reason to run again; another one is.
        lab.write("ctx/hidden", "3");
        assert!(lab.build("ctx", &[]).said.executed().is_empty());
        lab.write("ctx/kept", "changed");
        assert_eq!(lab.build("ctx", &[]).said.executed().len(), 2);
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN --mount=source=hidden,target=/x cat /x\n")]);
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.stderr.contains("\"/hidden\": not found"), "{}", said.stderr);
    });
}

#[test]
fn a_context_whose_path_is_no_text_is_copied_and_bound() {
    as_everybody(|lab| {
        lab.load_busybox();
        let odd = std::ffi::OsStr::from_bytes(b"odd\xe9");
        ctx(lab, "FROM busybox\nRUN echo 1 >/one\nCOPY f /f\nRUN --mount=target=/src cat /src/f /f >/seen\n");
        lab.write("ctx/f", "f\n");
        fs::rename(lab.work("ctx"), lab.work("").join(odd)).expect("renamed");
        let output = lab.shale(&["build", "--progress", "plain", "-o", "type=local,dest=out"]).arg(odd).output().expect("shale starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_to_string(lab.work("out/seen")).expect("read"), "f\nf\n");
        // A store must be text: it is refused, not another one written.
        let output = lab.shale(&["images"]).env("SHALE_ROOT", odd).output().expect("shale starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("the path is not valid UTF-8"), "{said}");
    });
}

#[test]
fn stages_and_named_contexts_are_bound_without_being_changed() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("named", &[("f", "named\n")]);
        ctx(
            lab,
            "FROM busybox AS made\nRUN mkdir /out && echo one >/out/f && ln -s f /out/link && ln -s /etc /out/etc\n\
             FROM busybox\nRUN --mount=from=made,source=/out,target=/o,rw echo two >/o/f && cat /o/f /o/link >/first\n\
             RUN --mount=from=made,source=out/link,target=/o cat /o >/second && ! mount 2>/dev/null | grep ' /o .*(rw'\n\
             RUN --mount=from=other,target=/n cat /n/f >/third\n",
        );
        let built = lab.build("ctx", &["--build-context", "other=named"]);
        let text = |name: &str| built.image.text(name);
        assert_eq!((text("first"), text("second"), text("third")), ("two\ntwo\n".into(), "one\n".into(), "named\n".into()));
    });
}

#[test]
fn caches_last_and_their_sources_cannot_lead_out() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox AS begin\nRUN mkdir /b && echo begun >/b/f\nFROM busybox\nARG RUN\n\
            RUN --mount=type=cache,target=/c echo $RUN >>/c/log && cat /c/log >/log\n\
            RUN --mount=type=cache,target=/c,uid=1000,gid=50,mode=0700 stat -c '%u:%g %a' /c >/owned && ls /c >>/owned\n\
            RUN --mount=type=cache,target=/d,from=begin cat /d/b/f >/from && ! ls /c/log 2>/dev/null\n\
            RUN --mount=type=cache,target=/g,from=begin,uid=1000,mode=0750 stat -c '%u:%g %a' /g /g/b >/filled\n\
            RUN --mount=type=tmpfs,target=/t,readonly ! touch /t/y 2>/dev/null && ls -A /t >/empty\n\
            RUN --mount=type=cache,id=/c,target=/x,ro ! touch /x/y 2>/dev/null && cat /x/log >/ro\n";
        ctx(lab, dockerfile);
        lab.build("ctx", &["--build-arg", "RUN=1"]);
        let built = lab.build("ctx", &["--build-arg", "RUN=2"]);
        let text = |name: &str| built.image.text(name);
        assert_eq!((text("log"), text("ro")), ("1\n2\n".into(), "1\n2\n".into()), "{:?}", lab.who());
        assert_eq!((text("owned"), text("from")), ("1000:50 700\n".into(), "begun\n".into()));
        assert_eq!((text("filled"), text("empty")), ("1000:0 750\n0:0 755\n".into(), String::new()));
        assert!(built.image.layers.iter().skip(1).flatten().all(|(name, _)| !["c", "d", "g", "t", "x"].contains(&name.as_str())));
        // A link in a cache is followed with the cache as the root, where there is no such file.
        fs::write(lab.work("outside"), "secret").expect("written");
        let outside = lab.work("outside");
        let plant = format!("RUN --mount=type=cache,id=e,target=/c ln -s {} /c/sel; ln -s ../../../.. /c/up\n", outside.display());
        for source in ["sel", "up/etc/shadow", "../lock"] {
            let read = format!("RUN --mount=type=cache,id=e,source={source},target=/v cat /v >/got\n");
            ctx(lab, &format!("FROM busybox\n{plant}{read}"));
            let said = lab.run(&["build", "--progress", "plain", "ctx"]);
            assert_ne!(said.code, 0, "{source} was mounted for {:?}:\n{}", lab.who(), said.stderr);
        }
    });
}

#[test]
fn a_locked_cache_has_one_user_and_a_private_one_is_alone() {
    as_everybody(|lab| {
        lab.load_busybox();
        let stage = |name: &str, sharing: &str| {
            format!(
                "FROM busybox AS {name}\nRUN --mount=type=cache,id={sharing},sharing={sharing},target=/c \
                 if mkdir /c/busy; then sleep 1; rmdir /c/busy; echo alone >/{name}; else echo together >/{name}; fi\n"
            )
        };
        for sharing in ["locked", "private"] {
            let dockerfile =
                format!("{}{}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n", stage("a", sharing), stage("b", sharing));
            ctx(lab, &dockerfile);
            let built = lab.build("ctx", &[]);
            assert_eq!((built.image.text("a"), built.image.text("b")), ("alone\n".into(), "alone\n".into()), "{sharing}");
        }
    });
}

/// A step that names one cache twice waits neither for itself nor sees two of it, and steps that lock several do not wait for each other.
#[test]
fn caches_that_are_named_twice_or_crosswise_are_no_trap() {
    as_everybody(|lab| {
        lab.load_busybox();
        for sharing in ["locked", "private", "shared"] {
            let mount = |at| format!("--mount=type=cache,id=a-{sharing},target={at},sharing={sharing}");
            ctx(lab, &format!("FROM busybox\nRUN {} {} echo hi >/x/f && ls /y >/seen\n", mount("/x"), mount("/y")));
            assert_eq!(lab.build("ctx", &[]).image.text("seen"), "f\n", "{:?} {sharing}", lab.who());
        }
        // Locks are taken in one order, wherever they are mounted.
        let mount = |id, at| format!("--mount=type=cache,id={id},target={at},sharing=locked");
        let stage = |n, x, y| format!("FROM busybox AS s{n}\nRUN {} {} sleep 0.1; echo {n} >/{n}\n", mount(x, "/x"), mount(y, "/y"));
        let stages: String = (0..6).map(|n| if n % 2 == 0 { stage(n, "one", "two") } else { stage(n, "two", "one") }).collect();
        let copies: String = (0..6).map(|n| format!("COPY --from=s{n} /{n} /\n")).collect();
        ctx(lab, &format!("{stages}FROM scratch\n{copies}"));
        assert_eq!(lab.build("ctx", &[]).image.text("5"), "5\n", "{:?}", lab.who());
        // What is mounted of a cache may be a file.
        let file = "--mount=type=cache,id=file,source=file,target=/new/c";
        ctx(lab, &format!("FROM busybox\nRUN --mount=type=cache,id=file,target=/c echo q >/c/file\nRUN {file} cat /new/c >/seen\n"));
        assert_eq!(lab.build("ctx", &[]).image.text("seen"), "q\n", "{:?}", lab.who());
    });
}

#[test]
fn a_secret_is_seen_by_its_step_alone() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.write("token", "s3cr3t-token\n");
        let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=t,uid=1000,mode=0440 --mount=type=secret,id=v,env=V \
            stat -c '%u:%g %a %s' /run/secrets/t >/seen && cat /run/secrets/t && echo \"a $V b\" && echo ${#V} >>/seen \
            && grep -c ' /run/secrets/t tmpfs' /proc/mounts /dev/null | head -1 >>/seen; test ! -e /run/secrets/v\n\
            RUN test ! -e /run && test -z \"$V\"\nRUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n\
            ENV OWN=own HOME=\nRUN --mount=type=secret,id=absent,env=OWN test -z \"${OWN-unset}\" && test \"$HOME\" = /root\n";
        ctx(lab, dockerfile);
        let archive = lab.work("o.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let args = [
            "build",
            "--progress",
            "plain",
            "--no-cache",
            "-o",
            &output,
            "--secret",
            "id=t,src=token",
            "--secret",
            "id=v,env=VALUE",
            "ctx",
        ];
        let mut command = lab.shale(&args);
        let said = support::Said::of(command.env("VALUE", "env-value-9").output().expect("shale starts"));
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let image = support::image::Image::read(&archive);
        assert_eq!(image.text("seen").lines().take(2).collect::<Vec<_>>(), ["1000:0 440 13", "11"]);
        assert!(said.stderr.contains("a *** b"), "{}", said.stderr);
        // Not shown, and nowhere in the store: no layer, record, log or blob has it.
        for value in ["s3cr3t-token", "env-value-9"] {
            assert!(!said.stderr.contains(value), "{}", said.stderr);
            let found = lab.command_of("grep", &["-rl", value, lab.store().to_str().expect("text")]).output().expect("grep starts");
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{value} is in the store");
        }
        // The value is no part of the key.
        ctx(lab, "FROM busybox\nRUN --mount=type=secret,id=t cat /run/secrets/t >/dev/null\n");
        lab.build("ctx", &["--secret", "id=t,src=token"]);
        lab.write("token", "another\n");
        assert!(lab.build("ctx", &["--secret", "id=t,src=token"]).said.executed().is_empty());
        ctx(lab, "FROM busybox\nRUN --mount=type=secret,id=nobody,required true\n");
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.stderr.contains("failed to solve: secret nobody: not found"), "{}", said.stderr);
    });
}

#[test]
fn memory_and_nested_mounts_leave_nothing_behind() {
    as_everybody(|lab| {
        lab.load_busybox();
        ctx(
            lab,
            "FROM busybox\nRUN --mount=type=cache,target=/deep/er/cache --mount=type=tmpfs,target=/deep,size=1m \
             touch /deep/x /deep/er/cache/y && df -k /deep | tail -1 | grep -q ' 1024 ' && echo ok >/ok\n\
             RUN test ! -e /deep && test ! -L /deep\n",
        );
        let built = lab.build("ctx", &[]);
        let names: Vec<&str> = built.image.layers[1].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ok"], "{:?}", lab.who());
    });
}

#[test]
fn memory_has_the_mode_of_the_directory_that_it_covers() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox\nRUN mkdir -m 700 /priv && chown 5:5 /priv\n\
             RUN --mount=type=tmpfs,target=/priv --mount=type=tmpfs,target=/new/er --mount=type=tmpfs,target=/etc \
             stat -c '%a %u %n' /priv /new/er /new /etc >/seen\n\
             RUN --mount=type=tmpfs,target=/dev ls -A /dev >>/seen; cat >>/seen; stat -c '%a %u' /priv >>/seen\n";
        ctx(lab, dockerfile);
        let built = lab.build("ctx", &[]);
        assert_eq!(built.image.text("seen"), "700 0 /priv\n1777 0 /new/er\n755 0 /new\n755 0 /etc\n700 5\n", "{:?}", lab.who());
    });
}

#[test]
fn mounts_that_cannot_be_are_told_by_their_targets() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.write("value", "v\n");
        for (mount, why) in [
            ("type=secret,id=s,target=/tmp", "cannot mount at /tmp: it is a directory, and what is mounted a file"),
            ("type=tmpfs,target=/bin/busybox", "cannot mount at /bin/busybox: it is a file, and what is mounted a directory"),
            ("type=tmpfs,target=/proc", "cannot mount at /proc: it lies in /proc"),
            ("type=secret,id=s,target=/proc/sys/kernel/hostname", "cannot mount at /proc/sys/kernel/hostname: it lies in /proc"),
            ("type=secret,id=s,target=/q,uid=3000000000", "cannot give what is mounted at /q to 3000000000:0: not among the ids"),
            ("type=cache,target=/q,gid=3000000000", "cannot give what is mounted at /q to 0:3000000000: not among the ids"),
        ] {
            let is_of_root = matches!(lab.who(), Who::Caller) && rustix::process::getuid().is_root();
            if why.contains("ids") && is_of_root {
                continue;
            }
            ctx(lab, &format!("FROM busybox\nRUN --mount={mount} true\n"));
            let said = lab.run(&["build", "--secret", "id=s,src=value", "ctx"]);
            assert!(said.code == 1 && said.stderr.contains(&format!("failed to solve: {why}")), "{:?} {mount}: {}", lab.who(), said.stderr);
            lab.assert_tidy(mount);
        }
    });
}

#[test]
fn a_link_in_the_image_does_not_lead_a_mount_out_of_the_root() {
    as_everybody(|lab| {
        lab.load_busybox();
        let victim = lab.work("victim");
        fs::create_dir(&victim).expect("made");
        symlink("x", victim.join("link")).expect("made");
        let dockerfile = format!(
            "FROM busybox\nRUN ln -s {} /evil && ln -s ../../../../../.. /up\n\
             RUN --mount=type=tmpfs,target=/evil/in touch /evil/in/f && ls -A /evil >/seen\n\
             RUN --mount=type=tmpfs,target=/up/new touch /new/f && echo inside >/where\n",
            victim.display()
        );
        ctx(lab, &dockerfile);
        let built = lab.build("ctx", &[]);
        assert_eq!((built.image.text("seen"), built.image.text("where")), ("in\n".into(), "inside\n".into()));
        let left: Vec<_> = fs::read_dir(&victim).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["link"], "{:?}", lab.who());
    });
}

#[test]
fn an_agent_is_seen_through_a_socket_of_the_step_s_own() {
    as_everybody(|lab| {
        if !support::has("ssh-agent") {
            return support::skip("ssh agent", "ssh-agent is not installed");
        }
        lab.load_busybox();
        let dockerfile = "FROM busybox\nRUN --mount=type=ssh,uid=1000,mode=0660 stat -c '%F %u:%g %a' $SSH_AUTH_SOCK >/seen\n\
            RUN --mount=type=ssh,id=none test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 && test ! -e \"$SSH_AUTH_SOCK\"\n\
            RUN --mount=type=ssh,id=none,target=/a --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /a\n\
            RUN test -z \"$SSH_AUTH_SOCK\"\n";
        ctx(lab, dockerfile);
        let archive = lab.work("o.tar");
        let binary = lab.path("shale");
        let output = format!("type=oci,dest={}", archive.display());
        let args = [binary.to_str().expect("text"), "build", "--progress", "plain", "-o", &output, "--ssh", "default", "ctx"];
        let said = support::Said::of(lab.command_of("ssh-agent", &args).output().expect("it starts"));
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(support::image::Image::read(&archive).text("seen"), "socket 1000:0 660\n");
        ctx(lab, "FROM busybox\nRUN --mount=type=ssh,required true\n");
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.stderr.contains("no SSH key \"default\" forwarded from the client"), "{}", said.stderr);
    });
}

#[test]
fn what_was_written_over_a_bind_mount_does_not_outlive_its_step() {
    as_everybody(|lab| {
        lab.load_busybox();
        let write = "mkdir /src/d && dd if=/dev/zero of=/src/d/f bs=1M count=8 2>/dev/null && usleep 200000 && chown -R 1000:50 /src/d && chmod 700 /src/d";
        // The second step sees what the first one left in the store.
        let look = "RUN usleep 700000";
        let text = format!("FROM busybox\nRUN --mount=type=bind,target=/src,rw {write}\n{look}\n");
        lab.context("ctx", &[("Dockerfile", &text), ("f", "f\n")]);
        let mut child = lab.shale(&["build", "--progress", "plain", "-t", "written", "ctx"]).spawn().expect("shale starts");
        let written = |lab: &Lab| {
            let found =
                std::process::Command::new("find").arg(lab.store().join("tmp")).args(["-size", "+1M"]).output().expect("find starts");
            !found.stdout.is_empty()
        };
        let (mut was_there, mut at_the_end) = (false, false);
        while child.try_wait().expect("a child").is_none() {
            at_the_end = written(lab);
            was_there |= at_the_end;
        }
        assert!(was_there && !at_the_end, "{:?}: seen {was_there}, at the end {at_the_end}", lab.who());
        lab.assert_tidy("written");
    });
}
