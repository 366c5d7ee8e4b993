//! What takes a RUN out of its sandbox: `--security=insecure`, `--network=host`, `--device`, and commands of other platforms.

mod support;

use std::fs;

use support::{Lab, Who, as_everybody, skip};

#[test]
fn insecure_steps_need_leave_and_then_have_every_capability() {
    as_everybody(|lab| {
        lab.load_busybox();
        let script = "grep -E '^(CapEff|CapBnd|CapAmb|Seccomp):' /proc/self/status >/status && \
            mkdir /m && mount -t tmpfs none /m && umount /m && rmdir /m";
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN --security=insecure {script}\nRUN --security=sandbox true\n"))]);
        let said = lab.run(&["build", "ctx"]);
        assert_eq!(said.code, 1);
        assert!(said.stderr.contains("security.insecure is not allowed"), "{}", said.stderr);
        assert!(said.stderr.contains("--allow security.insecure"), "{}", said.stderr);
        let built = lab.build("ctx", &["--allow", "security.insecure"]);
        let status = built.image.text("status");
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert_eq!((of("Seccomp:").as_str(), of("CapEff:") == of("CapBnd:")), ("0", true), "{:?}: {status}", lab.who());
        assert!(u64::from_str_radix(&of("CapEff:"), 16).unwrap() & (1 << 21) != 0, "no CAP_SYS_ADMIN: {status}");
    });
}

#[test]
fn an_insecure_step_of_another_user_keeps_its_capabilities() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context(
            "ctx",
            &[("Dockerfile", "FROM busybox\nRUN chmod 777 /tmp\nUSER app\nRUN --security=insecure id -u >/tmp/id && chown 5 /tmp/id\n")],
        );
        let built = lab.build("ctx", &["--allow=security.insecure"]);
        let file = &built.image.files["tmp/id"];
        assert_eq!((file.content.as_slice(), file.owner.0), (&b"1000\n"[..], 5), "{:?}", lab.who());
    });
}

#[test]
fn the_network_of_the_host_needs_leave_too() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN --network=host true\n")]);
    let said = lab.run(&["build", "ctx"]);
    assert!(said.code == 1 && said.stderr.contains("network.host is not allowed"), "{}", said.stderr);
    for leave in [["--allow", "network.host"], ["--network", "host"]] {
        let said = lab.run(&["build", leave[0], leave[1], "ctx"]);
        assert!(said.ok(), "{leave:?}: {}", said.stderr);
    }
}

const DEVICES: &str = r#"{"cdiVersion": "0.6.0", "kind": "example.com/thing",
    "annotations": {"org.mobyproject.buildkit.device.class": "things"}, "containerEdits": {"env": ["THINGS=yes"]},
    "devices": [{"name": "zero", "containerEdits": {
        "env": ["THING=zero"],
        "deviceNodes": [{"path": "/dev/things/zero", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "HERE/library", "containerPath": "/opt/library", "options": ["ro", "rbind"]}]
    }}]}"#;

#[test]
fn devices_are_found_by_their_specifications_and_need_leave() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.write("library/file", "from the machine\n");
        lab.write("cdi/thing.json", DEVICES.replace("HERE", lab.work("").to_str().unwrap().trim_end_matches('/')));
        let script =
            "head -c 4 /dev/things/zero >/zeros && cat /opt/library/file >/copied && echo $THING $THINGS >/said && ! touch /opt/library/x";
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN --device=example.com/thing=zero,required {script}\n"))]);
        lab.context(
            "class",
            &[("Dockerfile", "FROM busybox\nRUN --device=things test -c /dev/things/zero\nRUN --device=name=absent true\n")],
        );
        lab.context("absent", &[("Dockerfile", "FROM busybox\nRUN --device=example.com/other,required true\n")]);
        let build = |name: &str, args: &[&str]| {
            let output = format!("type=oci,dest={name}.tar");
            let mut command = lab.shale(&[&["build", "--progress", "plain", "-o", &output], args, &[name]].concat());
            support::Said::of(command.env("CDI_SPEC_DIRS", lab.work("cdi")).output().unwrap())
        };
        let said = build("ctx", &[]);
        let sentence = "device example.com/thing=zero is requested by the build but not allowed";
        assert!(said.code == 1 && said.stderr.contains(sentence), "{:?}: {}", lab.who(), said.stderr);
        let said = build("ctx", &["--allow", "device=example.com/thing"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let image = support::image::Image::read(&lab.work("ctx.tar"));
        assert_eq!((image.text("zeros").as_str(), image.text("copied").as_str()), ("\0\0\0\0", "from the machine\n"));
        assert_eq!(image.text("said"), "zero yes\n");
        // Nothing of it is in the image.
        assert!(!image.files.contains_key("opt/library/file") && !image.files.contains_key("dev/things"), "{:?}", image.files.keys());
        let said = build("class", &["--allow", "device"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let said = build("absent", &["--allow", "device"]);
        let sentence = "required device \"example.com/other\" is not registered";
        assert!(said.code == 1 && said.stderr.contains(sentence), "{:?}: {}", lab.who(), said.stderr);
    });
}

/// A program without libraries that makes the directory /made, for a platform.
fn program(machine: u16, is_64_bit: bool, code: &[u8]) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_64_bit), 1, 1];
    elf.resize(16, 0);
    let (header, segment) = if is_64_bit { (64_u64, 56_u64) } else { (52, 32) };
    let size = header + segment + code.len() as u64;
    let address = |elf: &mut Vec<u8>, value: u64| {
        if is_64_bit { elf.extend(value.to_le_bytes()) } else { elf.extend((value as u32).to_le_bytes()) }
    };
    elf.extend(2_u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    address(&mut elf, 0x40_0000 + header + segment);
    address(&mut elf, header);
    address(&mut elf, 0);
    elf.extend(0_u32.to_le_bytes());
    for half in [header as u16, segment as u16, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    if is_64_bit {
        elf.extend(5_u32.to_le_bytes());
    }
    for value in [0, 0x40_0000, 0x40_0000, size, size] {
        address(&mut elf, value);
    }
    if !is_64_bit {
        elf.extend(5_u32.to_le_bytes());
    }
    address(&mut elf, 0x1000);
    elf.extend(code);
    elf
}

/// `mkdirat(AT_FDCWD, "/made", 0755); exit(0)`
fn arm64() -> Vec<u8> {
    let code = [0x9280_0c60_u32, 0x1000_00e1, 0xd280_3da2, 0xd280_0448, 0xd400_0001, 0xd280_0ba8, 0xd280_0000, 0xd400_0001];
    program(183, true, &[&code.map(u32::to_le_bytes).concat()[..], b"/made\0"].concat())
}

/// `mkdir("/made", 0755); exit(0)`
fn i386() -> Vec<u8> {
    let code = b"\xb8\x27\0\0\0\xbb\x6e\0\x40\0\xb9\xed\x01\0\0\xcd\x80\xb8\x01\0\0\0\x31\xdb\xcd\x80/made\0";
    program(3, false, code)
}

#[test]
fn programs_of_32_bits_run_without_an_emulator() {
    if !cfg!(target_arch = "x86_64") {
        return skip("linux/386", "this is no x86-64 machine");
    }
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY --chmod=755 program /\nRUN [\"/program\"]\n")]);
        lab.write("ctx/program", i386());
        let built = lab.build("ctx", &["--platform", "linux/386"]);
        assert_eq!(built.image.config["architecture"], "386");
        assert_eq!(built.image.files["made"].kind, '5', "{:?}", lab.who());
    });
}

fn foreign(lab: &Lab) {
    lab.context("ctx", &[("Dockerfile", "FROM scratch AS copied\nCOPY --chmod=755 program /\nFROM copied\nRUN [\"/program\"]\n")]);
    lab.write("ctx/program", arm64());
}

#[test]
fn a_command_of_another_platform_without_an_emulator_is_refused_with_what_helps() {
    if cfg!(target_arch = "aarch64") {
        return skip("no emulator", "linux/arm64 is this machine's platform");
    }
    if fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|dir| dir.flatten().any(|file| file.file_name() == "qemu-aarch64")) {
        return skip("no emulator", "one is registered");
    }
    as_everybody(|lab| {
        foreign(lab);
        let said = lab.run(&["build", "--progress", "plain", "--platform", "linux/arm64", "ctx"]);
        assert_eq!(said.code, 1, "{:?}", lab.who());
        for part in [
            "exec format error: a RUN for linux/arm64",
            "no emulator is registered",
            ">>> RUN [\"/program\"]",
            "qemu-user-static",
            "$BUILDPLATFORM",
        ] {
            assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
        }
        // Nobody emulates another system.
        let said = lab.run(&["build", "--progress", "plain", "--platform", "windows/amd64", "ctx"]);
        assert!(said.code == 1 && said.stderr.contains("no emulator for it is known"), "{}", said.stderr);
        assert!(said.stderr.contains("$BUILDPLATFORM") && !said.stderr.contains("qemu"), "{}", said.stderr);
        // What only copies needs none.
        assert!(lab.run(&["build", "--platform", "linux/arm64", "--target", "copied", "ctx"]).ok());
    });
}

/// In a user namespace of its own the machine's registrations stay as they are.
const REGISTER: &str = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && printf '%s' \
    ':t:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:'\"$1:$2\" \
    >/proc/sys/fs/binfmt_misc/register && shift 2 && exec \"$@\"";

/// A user namespace in which every id is itself, as newuidmap gives it to a root that has them all.
const OWN_IDS: &str = "for f in /etc/subuid /etc/subgid; do [ -e $f ] || : >$f; mount --bind \"$0\" $f || exit 1; done; \
    exec unshare -U -m --map-users=0,0,65536 --map-groups=0,0,65536 --setuid=0 --setgid=0 \"$@\"";

#[test]
fn a_command_of_another_platform_runs_through_its_emulator() {
    let what = "a foreign RUN";
    let Some(emulator) = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join("qemu-aarch64-static")).find(|program| program.is_file()))
    else {
        return skip(what, "qemu-aarch64-static is not installed");
    };
    let lab = Lab::new(Who::Caller);
    foreign(&lab);
    let run = |flags: &str| {
        let binary = lab.path("shale");
        let ranges = lab.path("ranges");
        fs::write(&ranges, "root:0:65536\n").unwrap();
        let namespace = ["-m", "--propagation", "private", "sh", "-c", OWN_IDS, ranges.to_str().unwrap(), "sh", "-c", REGISTER, "sh"];
        let build = ["build", "--progress", "plain", "--no-cache", "-o", "type=oci,dest=o.tar", "--platform", "linux/arm64", "ctx"];
        let program = [emulator.to_str().unwrap(), flags, binary.to_str().unwrap()];
        support::Said::of(lab.command_of("unshare", &[&namespace[..], &program, &build].concat()).output().unwrap())
    };
    let said = run("F");
    if ["unshare:", "mount:", "newuidmap:"].iter().any(|word| said.stderr.contains(word)) {
        return skip(what, &said.stderr);
    }
    assert!(said.ok(), "{}", said.stderr);
    assert_eq!(support::image::Image::read(&lab.work("o.tar")).files["made"].kind, '5');
    // By its path alone no step finds it.
    let said = run("");
    assert!(said.code == 1 && said.stderr.contains("is registered without the flag F"), "{}", said.stderr);
}
