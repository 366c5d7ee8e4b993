//! Disks that are full, at every moment of a build, and stores that cannot be written.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use support::{Lab, Said, Who, as_everybody, as_everybody_at_once};

const DOCKERFILE: &str =
    "FROM busybox AS one\nCOPY a /a\nRUN cat /a /a >/one\nFROM busybox\nCOPY --from=one /one /d/one\nCOPY b /b\nRUN cat /b /d/one >/all\n";

/// In a mount namespace of its own: a store in memory of `$size` KiB, filled from the one that was prepared. `shale` is the program as
/// the laboratory's user.
const SETUP: &str = "set -e; store=$1 prepared=$2 binary=$3 etc=$4 played=$5 size=$6; \
    shale() { if [ \"$played\" = 1 ]; then setpriv --reuid 2000 --regid 2000 --clear-groups \"$binary\" \"$@\"; else \"$binary\" \"$@\"; fi; }; \
    if [ \"$played\" = 1 ]; then for f in passwd group subuid subgid; do [ -e /etc/$f ] || : >/etc/$f; mount --bind \"$etc/$f\" /etc/$f; done; fi; \
    mount -t tmpfs -o size=1g,mode=0700 tmpfs \"$store\"; [ \"$played\" = 0 ] || chown 2000:2000 \"$store\"; \
    cp -a \"$prepared/.\" \"$store\"; used=$(df -k --output=used \"$store\" | tail -1); \
    mount -o remount,size=$((used + size))k \"$store\"; set +e; ";

/// Runs a script on a store that has so many KiB left.
fn on_small_store(lab: &Lab, left_kib: u64, script: &str) -> Said {
    let played = if lab.who() == Who::Played { "1" } else { "0" };
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", &format!("{SETUP}{script}"), "sh"]);
    command.args([lab.store(), lab.path("home/prepared"), lab.path("shale"), lab.path("etc")]).args([played, &left_kib.to_string()]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", lab.path("home"));
    command.env("SHALE_ROOT", lab.store()).env("SHALE_CONFIG", lab.work("config.toml")).env("SOURCE_DATE_EPOCH", "1700000000");
    Said::of(command.current_dir(lab.path("work")).stdin(Stdio::null()).output().expect("unshare starts"))
}

/// A laboratory with contexts and a prepared store, which only root can put on a disk of its own.
fn prepared(lab: &Lab) {
    lab.own_binary();
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("a", &"a\n".repeat(100_000)), ("b", &"bb\n".repeat(100_000))]);
    lab.wait_for_sync("prepared");
    fs::rename(lab.store(), lab.path("home/prepared")).expect("renamed");
    fs::create_dir(lab.store()).expect("mkdir");
}

const BUILD: &str = "shale build -q -o type=oci,dest=out.tar,rewrite-timestamp=true ctx";

#[test]
fn wherever_the_disk_is_full_there_is_one_error_and_a_sound_store() {
    if !support::is_root() {
        support::skip("full disks", "only root can mount a small one");
        return;
    }
    as_everybody_at_once(|lab| {
        prepared(lab);
        lab.write("config.toml", "[gc]\nenabled = false\n");
        let good = on_small_store(
            lab,
            500_000,
            &format!("{BUILD}; cp out.tar expected.tar; df -k --output=used \"$store\" | tail -1; echo $used"),
        );
        assert!(good.ok(), "{:?}: {}", lab.who(), good.stderr);
        let numbers: Vec<u64> = good.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let needed = numbers[0] - numbers[1];
        // Every error stands alone, what it left is sound, and with space again the result is the undisturbed one.
        let script = format!(
            "rm -f out.tar; {BUILD} 2>said; code=$?; cat said >&2; shale store verify >verified || {{ cat verified; exit 70; }}; \
             [ $code = 0 ] && exit 0; mount -o remount,size=1g \"$store\"; {BUILD} >/dev/null || exit 71; \
             cmp out.tar expected.tar || exit 72; shale store verify | tail -1; exit $code"
        );
        let (mut failed, mut left, mut seen) = (0, 0, std::collections::BTreeSet::new());
        loop {
            let said = on_small_store(lab, left, &script);
            if said.ok() {
                break;
            }
            let when = format!("{:?}: {left} of {needed} KiB are free", lab.who());
            assert_eq!(said.code, 1, "{when}: {}{}", said.stdout, said.stderr);
            assert!(said.stdout.ends_with("Damaged: 0\n"), "{when}: {}", said.stdout);
            let errors: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with("ERROR:")).collect();
            let is_clear = said.stderr.contains("o space left");
            assert!(errors.len() == 1 && is_clear, "{when}: {}", said.stderr);
            seen.insert(errors[0].split('/').next().unwrap_or_default().to_owned());
            failed += 1;
            left += if left < 40 { 4 } else { 4 + needed / 24 };
            assert!(left <= needed * 2 + 1000, "{when}: it needs no more");
        }
        assert!(failed >= 20, "{:?}: {failed} failures of {needed} KiB: {seen:#?}", lab.who());
    });
}

#[test]
fn a_full_disk_costs_what_nobody_uses_before_it_costs_the_build() {
    if !support::is_root() {
        support::skip("full disks", "only root can mount a small one");
        return;
    }
    as_everybody(|lab| {
        lab.write("config.toml", "[gc]\nmin-free = 0\n");
        lab.write("old/f", vec![b'o'; 8 << 20]);
        lab.context("old", &[("Dockerfile", "FROM scratch\nCOPY f /old\n")]);
        let said = lab.run(&["build", "-q", "-o", "type=cacheonly", "old"]);
        assert!(said.ok(), "{}", said.stderr);
        prepared(lab);
        for left in [0, 16, 600, 1500] {
            let script = "shale build --progress plain -o type=oci,dest=out.tar,rewrite-timestamp=true ctx || exit 1; \
                shale store verify | tail -1; shale build --progress plain -o type=cacheonly old 2>&1 | grep -c 'CACHED'";
            let said = on_small_store(lab, left, script);
            let when = format!("{:?}: {left} KiB are free", lab.who());
            assert!(said.stdout.ends_with("Damaged: 0\n0\n"), "{when}: {}{}", said.stdout, said.stderr);
            // A step that the first try could not write says so in its own line.
            assert!(!said.stderr.lines().any(|line| line.starts_with("ERROR:")), "{when}: {}", said.stderr);
        }
    });
}

#[test]
fn a_store_that_cannot_be_written_is_read_and_says_so_to_builds() {
    if !support::is_root() {
        support::skip("read-only stores", "only root can mount one");
        return;
    }
    as_everybody(|lab| {
        lab.write("config.toml", "");
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo new >/new\n")]);
        lab.context("known", &[("Dockerfile", "FROM busybox\nRUN echo known >/known\n")]);
        for args in [&["save", "-o", "busybox.tar", "busybox"][..], &["build", "-q", "-o", "type=oci,dest=known.tar", "known"]] {
            assert!(lab.run(args).ok(), "{:?}: {args:?}", lab.who());
        }
        lab.wait_for_sync("prepared");
        fs::rename(lab.store(), lab.path("home/prepared")).expect("renamed");
        fs::create_dir(lab.store()).expect("mkdir");
        let script = "mount -o remount,ro \"$store\"; shale images -q | wc -l; shale inspect -f '{{.Os}}' busybox; shale save busybox | tar -t | grep -c manifest.json; \
            shale history -q busybox | wc -l; shale system df | wc -l; shale doctor | grep -c store; shale store verify | tail -1; \
            shale build -q ctx; echo \"code $?\"; shale builder prune -af; echo \"code $?\"; shale rmi busybox; echo \"code $?\"";
        let said = on_small_store(lab, 10_000, script);
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert_eq!(
            lines,
            ["2", "linux", "1", "2", "5", "1", "Damaged: 0", "code 1", "code 1", "code 1"],
            "{:?}: {}",
            lab.who(),
            said.stderr
        );
        let errors: Vec<&str> = said.stderr.lines().filter(|line| line.contains("ead-only") && !line.contains("hint:")).collect();
        assert!(errors.len() == 3 && errors.iter().all(|error| error.contains("ead-only")), "{:?}: {}", lab.who(), said.stderr);
    });
}

#[test]
fn a_command_that_fills_the_disk_is_run_again_with_what_nobody_uses_gone_and_told_why_it_fails() {
    if !support::is_root() {
        support::skip("full disks", "only root can mount a small one");
        return;
    }
    as_everybody(|lab| {
        let dd = |mib: u32| format!("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count={mib} || {{ cat /etc/none; exit 7; }}\n");
        for (name, text) in [("fits", dd(8)), ("never", dd(100))] {
            lab.context(name, &[("Dockerfile", &text)]);
        }
        lab.context("shm", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/dev/shm/f bs=1M count=3\n")]);
        lab.write("old/f", vec![b'o'; 8 << 20]);
        lab.context("old", &[("Dockerfile", "FROM scratch\nCOPY f /old\n")]);
        lab.write("config.toml", "[gc]\nmin-free = 0\n");
        assert!(lab.run(&["build", "-q", "-o", "type=cacheonly", "old"]).ok());
        prepared(lab);
        let build = "shale build --progress plain -o type=cacheonly";
        let said = on_small_store(lab, 5000, &format!("{build} fits"));
        let begun = said.stderr.matches("the disk is full: evict from the build cache and begin again").count();
        assert!(said.ok() && begun == 1, "{:?}: {}", lab.who(), said.stderr);
        assert!(said.stderr.contains("No space left on device") && !said.stderr.contains("\nhint: "), "{:?}: {}", lab.who(), said.stderr);

        let said = on_small_store(lab, 5000, &format!("{build} never"));
        let hint = "\nhint: the disk of the store had 0B left when the command ended: free some space, run `shale builder prune";
        assert!(said.code == 1 && said.stderr.contains("exit code: 7\n") && said.stderr.contains(hint), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(said.stderr.matches("\n > [2/2] RUN dd").count(), 1, "{:?}: the last failure only: {}", lab.who(), said.stderr);

        lab.write("config.toml", "[gc]\nenabled = false\n");
        let said = on_small_store(lab, 5000, &format!("{build} fits; {build} --shm-size 1m shm"));
        let [full, shm] =
            ["\nhint: the disk of the store had 0B left", "\nhint: the command says that it found no space; the disk of the store has"]
                .map(|hint| said.stderr.matches(hint).count());
        assert_eq!((full, shm, said.stderr.contains("begin again")), (1, 1, false), "{:?}: {}", lab.who(), said.stderr);
    });
}

#[test]
fn a_read_only_store_builds_what_it_has_and_says_what_it_would_have_to_write() {
    if !support::is_root() {
        support::skip("read-only stores", "only root can mount one");
        return;
    }
    as_everybody(|lab| {
        lab.context("plain", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "f\n")]);
        lab.context("upon", &[("Dockerfile", "FROM plain\nCOPY g /\n"), ("g", "g\n")]);
        for args in ["build -q -t plain plain", "save -o plain.tar plain", "rmi plain", "builder prune -af"] {
            let said = lab.run(&args.split(' ').collect::<Vec<_>>());
            assert!(said.ok(), "{:?}: {args}: {}", lab.who(), said.stderr);
        }
        prepared(lab);
        lab.write("config.toml", "");
        // Who is not root cannot read all unpacked files, and has no place for what lies in tars.
        let of_mapped_ids = (lab.who() == Who::Played).then_some("lay out files in tmp/, which this export as files needs");
        // Other flags on a cached build: what they need of the store, and what cannot be done.
        let cases = [
            ("build -q -o type=oci,dest=again.tar ctx", None),
            ("build -q -t app ctx", None),
            // A base that came packed, and was indexed by the build upon it.
            ("build -q -t upon upon", None),
            ("build -q -o type=cacheonly ctx", None),
            ("build -q --label a=b -o type=docker,dest=labelled.tar ctx", None),
            ("save -o saved.tar app", None),
            ("tag app app", None),
            ("build -q -o files ctx", of_mapped_ids),
            ("build -q -o type=tar,dest=files.tar ctx", of_mapped_ids),
            // A layer that was never packed, with a file that only the worker may read.
            ("build -q -o hidden hidden", of_mapped_ids),
            ("build -q -o type=tar,dest=hidden.tar hidden", of_mapped_ids),
            ("builds", None),
            ("explain", None),
            ("build -q -t new ctx", Some("write the name docker.io/library/new:latest into images/")),
            ("build -q -o type=oci,compression=zstd,dest=z.tar ctx", Some("pack a layer, which was never packed like this, into blobs/")),
            ("build -q --no-cache ctx", Some("keep what the step makes, which it does not have yet, in steps/ and layers/")),
            ("build -q --build-arg X=1 other", Some("keep what the step makes, which it does not have yet, in steps/ and layers/")),
            ("rmi app", Some("remove the image sha256:")),
            ("tag app app2", Some("write the name docker.io/library/app2:latest into images/")),
            ("load -i labelled.tar", Some("write into blobs/")),
            ("builder prune -f", Some("delete anything in it")),
            ("builds rm --all", Some("remove the build")),
        ];
        lab.context("other", &[("Dockerfile", "FROM busybox\nRUN echo other >/other\n")]);
        lab.context("hidden", &[("Dockerfile", "FROM busybox\nRUN echo hidden >/h && chown 5:6 /h && chmod 600 /h\n")]);
        let script = "shale build -q -o type=oci,dest=first.tar ctx >/dev/null && shale build -q -t app ctx >/dev/null || exit 70; \
            shale build -q -o type=cacheonly hidden >/dev/null || exit 71; \
            shale load -i plain.tar >/dev/null && shale build -q -t upon upon >/dev/null || exit 72; until mount -o remount,ro \"$store\" 2>/dev/null; do sleep 0.1; done; ";
        let each = |(args, _): &(&str, Option<&str>)| {
            format!(
                "shale {args} >said 2>&1; echo \"$? $(grep -c '^ERROR:' said) $(grep '^ERROR:' said)|$(grep -c '^hint: a read-only' said)\"; "
            )
        };
        let script = script.to_owned() + &cases.iter().map(each).collect::<String>();
        let compare = "cmp first.tar again.tar && echo same; [ -e files ] || [ -e files.tar ] || [ -e hidden ] || [ -e hidden.tar ] || exit 0; \
            cmp ctx/b files/b && tar -xOf files.tar all | cmp - files/all && tar -xOf hidden.tar h | cmp - hidden/h \
            && echo \"$(cat hidden/h) $(tar --numeric-owner -tvf hidden.tar h | cut -c-14)\"";
        let said = on_small_store(lab, 50_000, &(script + compare));
        let lines: Vec<&str> = said.stdout.lines().collect();
        let last: &[&str] = if of_mapped_ids.is_some() { &["same"] } else { &["same", "hidden -rw------- 5/6"] };
        assert_eq!(lines.get(cases.len()..), Some(last), "{:?}: {}{}", lab.who(), said.stdout, said.stderr);
        for ((args, wanted), line) in cases.iter().zip(&lines) {
            match wanted {
                None => assert_eq!(*line, "0 0 |0", "{:?}: {args}", lab.who()),
                Some(wanted) => {
                    let is_told = line.contains(&format!("the store {} is read-only: cannot {wanted}", lab.store().display()));
                    assert!(line.starts_with("1 1 ERROR: ") && line.ends_with("|1") && is_told, "{:?}: {args}: {line}", lab.who());
                }
            }
        }
    });
}

/// Sets every time in a tree.
fn set_times(lab: &Lab, date: &str) {
    let status = Command::new("find").arg(lab.store()).args(["-exec", "touch", "-h", "-d", date, "{}", "+"]).status().expect("find starts");
    assert!(status.success());
}

#[test]
fn clocks_that_jump_do_no_harm() {
    if !support::is_root() {
        support::skip("clocks that jump", "only root can set times of files of mapped ids");
        return;
    }
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        // What RUN made has true times in its index; the test changes those of files, so it makes none.
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY a /a\nWORKDIR /w\n"), ("a", "a\n")]);
        let build = || lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=out.tar", "ctx"]);
        assert!(build().ok());
        for date in ["1970-01-01T00:00:01Z", "2090-01-01T00:00:00Z"] {
            lab.wait_for_sync(date);
            set_times(lab, date);
            let again = build();
            assert!(again.ok() && again.executed().is_empty(), "{:?}: {date}: {}", lab.who(), again.stderr);
            lab.wait_for_sync(date);
            // It counts as used now, and not in seventy years.
            let said = lab.run(&["builder", "prune", "-af", "--filter", "until=1h"]);
            assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
            let again = build();
            assert!(again.ok() && again.executed().is_empty(), "{:?}: {date}, pruned: {}", lab.who(), again.stderr);
            assert!(lab.run(&["store", "verify"]).stdout.ends_with("Damaged: 0\n"));
        }
    });
}

#[test]
fn a_folder_without_write_permission_is_a_store_to_read() {
    let lab = Lab::new(Who::Caller);
    if support::is_root() {
        support::skip("a folder without write permission", "root may write it; see the read-only file system");
        return;
    }
    lab.load_busybox();
    fs::set_permissions(lab.store(), fs::Permissions::from_mode(0o500)).expect("chmod");
    let said = lab.run(&["images", "-q"]);
    fs::set_permissions(lab.store(), fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(said.ok() && said.stdout.lines().count() == 1, "{}", said.stderr);
}
