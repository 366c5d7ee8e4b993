//! RUN in the sandbox: what a command sees, what it cannot do, how it ends.

mod sandbox_common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use sandbox_common::{Bench, Guise, ORDINARY, program};
use shale::plan::graph::NetworkMode;
use shale::sandbox::{Cancel, SandboxError};
use shale::worker::{Exit, MountSource, RunRequest, StepMount, Ulimit};

#[test]
fn exit_codes_signals_and_output() {
    let Some(bench) = Bench::new() else { return };
    let ran = bench.sh("echo out; echo err >&2; exit 3");
    assert_eq!((ran.exit, ran.stdout.as_str(), ran.stderr.as_str()), (Exit::Code(3), "out\n", "err\n"));
    assert_eq!(bench.sh("kill -9 $$; true").exit, Exit::Code(0), "PID 1 is immune to its own signals");
    assert_eq!(bench.sh("sh -c 'kill -9 $$'; exit $?").exit, Exit::Code(137));
    assert_eq!(bench.run(bench.request(&["true"])).exit, Exit::Code(0));
    assert_eq!(bench.out("cat; echo stdin is empty"), "stdin is empty\n");
    let binary = bench.run(bench.request(&["printf", "a\\001b"]));
    assert_eq!(binary.stdout.as_bytes(), b"a\x01b");
}

#[test]
fn no_output_is_lost_at_the_end_and_each_stream_keeps_its_order() {
    let Some(bench) = Bench::new() else { return };
    let out = bench.out("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done");
    let want: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    assert!(out == want, "{} bytes instead of {}", out.len(), want.len());
    let ran = bench.sh("(sleep 1000 & echo background $! >/dev/null); echo last");
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Code(0), "last\n"), "leftovers end with PID 1 and are not waited for");
}

#[test]
fn a_command_that_cannot_start_is_told_from_one_that_fails() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.base().join("bin/plain"), "text").unwrap();
    fs::write(bench.base().join("bin/garbage"), "\x01\x02").unwrap();
    fs::set_permissions(bench.base().join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(bench.base().join("bin/orphan"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(bench.base().join("bin/orphan"), fs::Permissions::from_mode(0o755)).unwrap();
    for (argv0, want, want_code) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH", 127),
        ("plain", "exec: \"plain\": executable file not found in $PATH", 127),
        ("/bin/nope", "exec: \"/bin/nope\": stat /bin/nope: no such file or directory", 127),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied", 126),
        ("garbage", "exec /bin/garbage: exec format error", 126),
        ("orphan", "exec /bin/orphan: no such file or directory", 127),
    ] {
        match bench.try_run(bench.request(&[argv0]), &Cancel::new().unwrap()) {
            Err(SandboxError::Exec { message, code }) => assert_eq!((message.as_str(), code), (want, want_code)),
            other => panic!("{argv0}: {other:?}"),
        }
    }
}

#[test]
fn a_process_that_stands_by_for_another_kind_of_step_and_one_that_fails_disturb_nobody() {
    let Some(bench) = Bench::new() else { return };
    for round in 0..60 {
        let mut other = bench.request(&["sh", "-c", "echo other; ls /sys/class/net"]);
        other.network = NetworkMode::None;
        let ran = bench.run(other);
        assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Code(0), "other\nlo\n"), "round {round}");
        assert!(bench.try_run(bench.request(&["nope"]), &Cancel::new().unwrap()).is_err(), "round {round}");
        assert_eq!(bench.out("echo plain"), "plain\n", "round {round}");
    }
}

#[test]
fn the_user_its_groups_and_its_privileges() {
    let Some(bench) = Bench::new() else { return };
    let status = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t' ' '";
    let root = bench.out(status);
    for line in [
        "Uid: 0 0 0 0",
        "Gid: 0 0 0 0",
        "Groups: 0 \n",
        "CapInh: 0000000000000000",
        "CapPrm: 00000000a80425fb",
        "CapEff: 00000000a80425fb",
        "CapBnd: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        "NoNewPrivs: 0",
        "Seccomp: 2",
    ] {
        assert!(root.contains(line), "{line} is not in:\n{root}");
    }
    let mut request =
        bench.sh_request(&format!("{status}; id; umask; touch /tmp/mine; stat -c %u:%g /tmp/mine; touch /etc/x || echo refused"));
    (request.uid, request.gid, request.groups) = (1000, 1001, vec![1001, 5, 44]);
    let ran = bench.run(request);
    for line in [
        "Uid: 1000 1000 1000 1000",
        "Gid: 1001 1001 1001 1001",
        "Groups: 5 44 1001 \n",
        "CapPrm: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapBnd: 00000000a80425fb",
        "uid=1000(ann) gid=1001 groups=5(tty),44,1001",
        "0022\n1000:1001\nrefused\n",
    ] {
        assert!(ran.stdout.contains(line), "{line} is not in:\n{}", ran.stdout);
    }
}

#[test]
fn forbidden_calls_fail() {
    let Some(bench) = Bench::new() else { return };
    let refused = |script: &str| {
        let ran = bench.sh(&format!("{script} 2>&1"));
        let refusal = ["not permitted", "ermission denied"].iter().any(|words| ran.stdout.contains(words));
        assert!(ran.exit != Exit::Code(0) && refusal, "{script}: {ran:?}");
    };
    refused("mount -t tmpfs none /tmp");
    refused("unshare -U true");
    refused("unshare -m true");
    refused("umount /proc");
    refused("hostname other");
    refused("mount -o remount,rw /sys");
    let ran =
        bench.sh("chroot / /bin/true && mknod /tmp/fifo p && ping -c 1 -w 1 127.0.0.1 >/dev/null; dmesg >/dev/null 2>&1 || echo no dmesg");
    assert_eq!(ran.stdout, "no dmesg\n", "{ran:?}");
}

#[test]
fn the_mounts_are_those_of_buildkit() {
    let Some(bench) = Bench::new() else { return };
    let mut request =
        bench.sh_request("cat /proc/self/mountinfo; ls -l /dev; df -k /dev/shm /dev | cat; stat -c '%a %U' /dev /dev/shm /dev/null");
    request.shm_size_bytes = Some(1 << 20);
    let text = bench.run(request).stdout;
    // Mount point, type and options of each mount.
    let mounts: Vec<(String, String, String)> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<_> = left.split(' ').collect();
            Some((left[4].to_owned(), right.split(' ').next()?.to_owned(), left[5].to_owned()))
        })
        .collect();
    let find = |point: &str| mounts.iter().rev().find(|m| m.0 == point).unwrap_or_else(|| panic!("nothing is mounted at {point}:\n{text}"));
    for (point, kind, options) in [
        ("/", "overlay", "rw"),
        ("/proc", "proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs", "rw,nosuid"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec"),
        // One whose size was asked for; the default one has more attributes.
        ("/dev/shm", "tmpfs", "rw,nosuid,relatime"),
        ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "proc", "ro,nosuid,nodev,noexec"),
        ("/proc/bus", "proc", "ro,nosuid,nodev,noexec"),
    ] {
        let found = find(point);
        assert_eq!(found.1, kind, "{point}");
        for option in options.split(',') {
            assert!(found.2.split(',').any(|o| o == option), "{point}: {option} is not in {}", found.2);
        }
    }
    for point in ["/etc/resolv.conf", "/etc/hosts"] {
        assert!(find(point).2.starts_with("ro,nosuid,nodev,noexec"), "{point}: {:?}", find(point));
    }
    assert!(mounts.iter().all(|m| m.0 != "/run" && m.0 != "/etc/hostname"));
    assert!(mounts.iter().filter(|m| m.0.starts_with("/sys")).all(|m| m.2.starts_with("ro")), "{mounts:?}");
    for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx -> pts/ptmx", "fd -> /proc/self/fd", "stdin -> /proc/self/fd/0"]
    {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
    assert!(text.contains("755 root\n1777 root\n666 "), "{text}");
    assert!(text.lines().any(|l| l.contains("1024") && l.contains("/dev/shm")), "{text}");
}

#[test]
fn masked_and_read_only_paths() {
    let Some(bench) = Bench::new() else { return };
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/sched_debug", "/proc/latency_stats"] {
        let out = bench.out(&format!("[ ! -e {path} ] || wc -c <{path}"));
        assert!(matches!(out.as_str(), "" | "0\n"), "{path}: {out}");
    }
    for path in ["/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        assert_eq!(bench.out(&format!("[ ! -e {path} ] || ls -A {path}")), "", "{path}");
        // One of them may be hidden by what the step was made on.
        assert_eq!(
            bench.out(&format!("touch {path}/x {path} 2>/dev/null || mkdir {path}/x 2>/dev/null || echo refused")),
            "refused\n",
            "{path}"
        );
    }
    for path in ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"] {
        let ran = bench.sh(&format!("[ -e {path} ] || exit 7; echo 0 2>/dev/null >{path}"));
        assert!(ran.exit != Exit::Code(0), "{path}: {ran:?}");
    }
    assert_eq!(bench.out("echo x >/dev/null; head -c 3 /dev/zero | wc -c; [ -w /dev/full ] && echo ok"), "3\nok\n");
}

#[test]
fn nothing_of_the_machine_leaks() {
    let Some(bench) = Bench::new() else { return };
    let env = bench.out("env | sort");
    assert!(env.lines().all(|l| ["PATH=", "HOME=", "PWD=", "SHLVL=", "_="].iter().any(|p| l.starts_with(p))), "{env}");
    assert_eq!(bench.out("ls /proc/1/fd; true"), "0\n1\n2\n");
    assert_eq!(bench.out("readlink /proc/self/fd/0; echo $$; echo /proc/[0-9]*"), "/dev/null\n1\n/proc/1\n");
    assert_eq!(bench.out("readlink /proc/1/root; readlink /proc/1/cwd; [ -e /proc/1/root/work ] || echo none"), "/\n/\nnone\n");
    assert_eq!(bench.out("hostname; cat /etc/hosts /etc/resolv.conf"), "buildkitsandbox\n127.0.0.1\tlocalhost\nnameserver 192.0.2.1\n");
    assert_eq!(bench.out("grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status | tr -d '\\t'"), zero_signals());
    assert_eq!(bench.out("cut -d ' ' -f 6,7,41 /proc/1/stat"), "1 0 0\n", "a session of its own, no terminal, no batch job");
    let script = "awk '$5 == \"/\" {print $(NF - 2)}' /proc/self/mountinfo; cd /..; pwd; ls -d work tmp proc/1; stat -c %i / /.. /proc/.. | uniq | wc -l";
    let with_a_mount = RunRequest { mounts: vec![tmpfs("/tmpfs")], ..bench.sh_request(script) };
    for request in [bench.sh_request(script), with_a_mount] {
        let ran = bench.run(request);
        assert_eq!(ran.stdout, "overlay\n/\nproc/1\ntmp\n1\n", "the step's root is the only one: {ran:?}");
    }
}

fn tmpfs(target: &str) -> StepMount {
    StepMount { target: target.into(), is_file: false, writable: true, source: MountSource::Tmpfs { size_bytes: None } }
}

fn zero_signals() -> &'static str {
    "SigBlk:0000000000000000\nSigIgn:0000000000000000\nSigCgt:0000000000000000\n"
}

#[test]
fn hosts_limits_files_and_the_network() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.sh_request("cat /etc/hosts; ulimit -n; ulimit -H -n; /run/scripts/go; cat /dev/pipes/EOF; ls /sys/class/net; ip -o addr show lo | grep -c 127.0.0.1");
    request.add_hosts = vec![("db".to_owned(), "10.0.0.7".to_owned())];
    request.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 }];
    request.files = vec![
        ("/run/scripts/go".to_owned(), b"#!/bin/sh\necho went $0\n".to_vec(), 0o755),
        ("/dev/pipes/EOF".to_owned(), b"heredoc\n".to_vec(), 0o644),
    ];
    request.network = NetworkMode::None;
    let ran = bench.run(request);
    assert_eq!(ran.stdout, "127.0.0.1\tlocalhost\n10.0.0.7\tdb\n100\n200\nwent /run/scripts/go\nheredoc\nlo\n1\n", "{ran:?}");
    let mut request = bench.sh_request("ls /run/many | wc -l");
    request.files = (0..300).map(|n| (format!("/run/many/{n}"), Vec::new(), 0o644)).collect();
    let error = bench.try_run(request.clone(), &Cancel::new().unwrap()).expect_err("more than can be handed over");
    assert!(error.to_string().contains("302 files of its own"), "{error}");
    request.files.truncate(240);
    request.tmp = bench.sh_request("").tmp;
    request.upper = request.tmp.join("upper");
    assert_eq!(bench.run(request).stdout, "240\n");
    let mut request = bench.sh_request("true");
    request.ulimits = vec![Ulimit { name: "nonsense".to_owned(), soft: 1, hard: 1 }];
    assert!(bench.try_run(request, &Cancel::new().unwrap()).is_err());
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(bench.out("readlink /proc/self/ns/net").trim(), host.to_str().unwrap(), "the default is the machine's network");
}

#[test]
fn working_directories() {
    let Some(bench) = Bench::new() else { return };
    symlink("/dir/sub", bench.base().join("shortcut")).unwrap();
    for (cwd, want) in [("/", "/"), ("/dir", "/dir"), ("/shortcut", "/dir/sub"), ("/not/there", "/not/there"), ("/../..", "/")] {
        let mut request = bench.sh_request("pwd -P; stat -c %u .");
        (request.cwd, request.uid, request.gid) = (cwd.to_owned(), 1000, 1000);
        let want_owner = if cwd == "/not/there" { 1000 } else { 0 };
        assert_eq!(bench.run(request).stdout, format!("{want}\n{want_owner}\n"), "{cwd}");
    }
}

#[test]
fn attacks_by_paths_stay_inside() {
    let Some(bench) = Bench::new() else { return };
    for fd in 0..12 {
        for form in ["/proc/self/fd/{}", "/proc/1/fd/{}/.."] {
            let cwd = form.replace("{}", &fd.to_string());
            let mut request = bench.sh_request("pwd -P; ls -d work opt 2>/dev/null; true");
            request.cwd.clone_from(&cwd);
            if let Ok(ran) = bench.try_run(request, &Cancel::new().unwrap()) {
                panic!("{cwd} was entered: {ran:?}");
            }
        }
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("resolv"), "mine").unwrap();
    symlink(outside.path().join("resolv"), bench.base().join("etc/resolv.conf")).unwrap();
    symlink("../../../../../../../../etc/deep/er/hosts", bench.base().join("etc/hosts")).unwrap();
    let out = bench.out(&format!("cat /etc/resolv.conf /etc/deep/er/hosts; ls -A {}", outside.path().display()));
    assert_eq!(out, "nameserver 192.0.2.1\n127.0.0.1\tlocalhost\nresolv\n");
    assert_eq!(fs::read_to_string(outside.path().join("resolv")).unwrap(), "mine");
    assert!(!std::path::Path::new("/etc/deep").exists());

    for name in ["dev", "proc", "sys"] {
        let path = bench.base().join(name);
        drop(fs::remove_dir(&path));
        symlink(outside.path(), &path).unwrap();
        let error = bench.try_run(bench.sh_request("true"), &Cancel::new().unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("/{name}")), "{error}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn the_program_outside_cannot_be_written_through_proc() {
    let Some(bench) = Bench::new() else { return };
    // The interpreter of this script is the process before it is the command: shale itself.
    fs::write(bench.base().join("bin/evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(bench.base().join("bin/evil"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::metadata(program()).unwrap().len();
    drop(bench.try_run(bench.request(&["/bin/evil"]), &Cancel::new().unwrap()));
    let ran = bench.sh("echo x 2>/dev/null >>/proc/self/exe; echo done");
    assert_eq!(ran.stdout, "done\n");
    assert_eq!(fs::metadata(program()).unwrap().len(), before);
}

#[test]
fn as_an_ordinary_user() {
    sandbox_common::again_as_an_ordinary_user();
}

/// Root that may not mount, as in a container: a nested user namespace.
#[test]
fn as_root_without_mount_rights() {
    let become_it = "setpriv --bounding-set -sys_admin";
    sandbox_common::again("as_root_without_mount_rights", Guise { become_it, ..ORDINARY });
}

/// No cgroup keeps a step from a device whose node it has made, so there are nodes of harmless ones only.
#[test]
fn of_devices_a_step_makes_the_harmless_ones() {
    let Some(bench) = Bench::new() else { return };
    let made = "mknod /tmp/null c 1 3 && echo x >/tmp/null && echo made; ";
    let refused = "for d in 'c 10 229' 'c 1 1' 'b 254 0' 'b 7 0'; do mknod /tmp/x $d 2>/dev/null && echo \"made $d\"; done; true";
    let stdout = bench.sh(&format!("{made}{refused}")).stdout;
    // In a user namespace there are none at all.
    assert!(stdout.is_empty() || (rustix::process::geteuid().is_root() && stdout == "made\n"), "{stdout}");
}
