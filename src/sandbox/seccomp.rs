//! The system call filter of a step: the meaning of Docker's default profile, compiled to a classic BPF program.
//!
//! The program dispatches on the architecture, then searches the number in a balanced tree of ranges. The kernel caches the calls
//! that are allowed whatever their arguments are, so only the few with a condition cost anything.
//!
//! There are two programs, of which the kernel takes the stricter verdict. The first, long one is installed in the worker, if all steps
//! are to have it, for the kernel compiles it each time: it still lets through what a step is made with. The second refuses that.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::seccomp_table::{Abi, NEWEST, TABLE};
use super::sys;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Allowed.
    Allow,
    /// `socket`: every family but AF_VSOCK, which reaches the hypervisor, and AF_ALG, the kernel's ciphers, which have let users write to the
    /// page cache of any file (CVE-2026-31431). `socketcall`, which 32-bit libraries use, hides its family behind a pointer.
    Families,
    /// `personality`: the values that change nothing about security.
    Personality,
    /// `clone`: without a flag that makes a namespace.
    NoNamespaces,
    /// `mknod`: of devices only those that every step may open.
    Mknod,
    /// `mknodat`: the same.
    MknodAt,
    /// ENOSYS, for which libraries have a fallback (`clone3` hides its flags behind a pointer).
    NotImplemented,
    /// EPERM.
    Deny,
}

const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Numbers of x32 calls carry this bit.
const X32_BIT: u32 = 0x4000_0000;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

/// Devices that may be made, as `mknod(2)` takes their numbers: what runc lets every container open, and the whiteout of layers. No cgroup keeps
/// a step of root's from opening others, so it makes none; runc's lets it make all of them, and open none.
const DEVICES: [u32; 10] = [0, dev(1, 3), dev(1, 5), dev(1, 7), dev(1, 8), dev(1, 9), dev(5, 0), dev(5, 1), dev(5, 2), dev(10, 200)];

/// A number of a device whose parts are below 256.
const fn dev(major: u32, minor: u32) -> u32 {
    major << 8 | minor
}

// Offsets into `struct seccomp_data`; the low halves of arguments, as both architectures are little-endian.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENT_0: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

type Program = Vec<libc::sock_filter>;

/// What is still done under the first program, though no step may: native numbers. To make namespaces is `clone`'s part of it.
const SET_UP: [libc::c_long; 11] = [
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_sethostname,
    libc::SYS_umount2,
    libc::SYS_unshare,
];

/// Whether this process has the first program from the worker.
static IS_WORKERS: AtomicBool = AtomicBool::new(false);
static PROGRAMS: OnceLock<[Program; 2]> = OnceLock::new();

/// Makes the programs, which forks then share.
pub(crate) fn prepare() -> &'static [Program; 2] {
    PROGRAMS.get_or_init(|| [first_program(sys::kernel_has_x32()), second_program()])
}

/// Installs the first program in the worker: what it forks from now on has it, and no step of it can do without.
pub(crate) fn install_in_worker() -> io::Result<()> {
    sys::install_filter(&prepare()[0])?;
    IS_WORKERS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether the worker that this process comes from has the first program.
pub(super) fn is_in_worker() -> bool {
    IS_WORKERS.load(Ordering::Relaxed)
}

/// Installs the first program for this process and all that comes of it. Needs CAP_SYS_ADMIN in the user namespace, as
/// `no_new_privs` stays off.
pub(super) fn install_first() -> io::Result<()> {
    sys::install_filter(&prepare()[0])
}

/// Installs the second program: after this nothing can be mounted any more, and no namespace made.
pub(super) fn install_second() -> io::Result<()> {
    sys::install_filter(&prepare()[1])
}

/// Refuses the calls of the set-up. Those of other architectures the first program refuses.
fn second_program() -> Program {
    let arch = if cfg!(target_arch = "aarch64") { AUDIT_ARCH_AARCH64 } else { AUDIT_ARCH_X86_64 };
    let count = SET_UP.len() as u8;
    let namespaces = leaf(Rule::NoNamespaces);
    let mut out = vec![load(OFFSET_ARCH), jump(libc::BPF_JEQ, arch, 0, count + 2 + namespaces.len() as u8), load(OFFSET_NUMBER)];
    out.extend(SET_UP.iter().zip(1..).map(|(number, at)| jump(libc::BPF_JEQ, *number as u32, count - at + 2 + namespaces.len() as u8, 0)));
    out.push(jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, namespaces.len() as u8));
    out.extend(namespaces);
    out.extend([allow(), refuse(libc::EPERM)]);
    out
}

/// A kernel without x32 has ENOSYS for all of its calls, and so has the program then: what is left out need not be compiled.
fn first_program(with_x32: bool) -> Program {
    let mut out = vec![load(OFFSET_ARCH)];
    let (native, compat) = if cfg!(target_arch = "aarch64") {
        ((AUDIT_ARCH_AARCH64, search(Abi::Aarch64, true)), (AUDIT_ARCH_ARM, search(Abi::Arm, false)))
    } else {
        let mut native = vec![jump(libc::BPF_JGE, X32_BIT, 0, 1)];
        let (plain, mut x32) = (search(Abi::X86_64, true), vec![statement(libc::BPF_ALU | libc::BPF_AND, !X32_BIT)]);
        x32.extend(if with_x32 { search(Abi::X32, false) } else { vec![refuse(libc::ENOSYS)] });
        native.push(statement(libc::BPF_JMP | libc::BPF_JA, plain.len() as u32));
        native.extend(plain);
        native.extend(x32);
        ((AUDIT_ARCH_X86_64, native), (AUDIT_ARCH_I386, search(Abi::X86, false)))
    };
    for (arch, body) in [native, compat] {
        // Unlike conditional jumps, an unconditional one may skip more than 255 instructions.
        out.extend([jump(libc::BPF_JEQ, arch, 1, 0), statement(libc::BPF_JMP | libc::BPF_JA, body.len() as u32 + 1)]);
        out.push(load(OFFSET_NUMBER));
        out.extend(body);
    }
    out.push(refuse(libc::ENOSYS));
    out
}

/// The tree for one ABI, the calls of the set-up allowed or not; expects the number in the accumulator.
fn search(abi: Abi, sets_up: bool) -> Program {
    let of_abi = TABLE.iter().filter_map(|(_, rule, numbers)| u32::try_from(numbers[abi as usize]).ok().map(|n| (n, *rule)));
    let of_set_up = SET_UP.iter().chain([&libc::SYS_clone]).filter(|_| sets_up).map(|number| (*number as u32, Rule::Allow));
    // What comes later counts.
    let rules: BTreeMap<u32, Rule> = of_abi.chain(of_set_up).collect();
    let mut ranges: Vec<(u32, Rule)> = vec![(0, Rule::Deny)];
    let mut start = |from: u32, rule: Rule| match ranges.last_mut() {
        Some(last) if last.0 == from => last.1 = rule,
        Some(last) if last.1 == rule => {}
        _ => ranges.push((from, rule)),
    };
    let mut known_end = false;
    for (number, rule) in rules {
        // The private calls of 32-bit Arm lie far above the common part.
        if number > NEWEST && !known_end {
            start(NEWEST + 1, Rule::NotImplemented);
            known_end = true;
        }
        start(number, rule);
        start(number + 1, if known_end { Rule::NotImplemented } else { Rule::Deny });
    }
    if !known_end {
        start(NEWEST + 1, Rule::NotImplemented);
    }
    tree(&ranges)
}

/// Code for ranges given by their first number, each reaching to the next one's.
fn tree(ranges: &[(u32, Rule)]) -> Program {
    if ranges.len() <= MAX_BLOCK_RANGES {
        return Block::of(ranges);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (first, low, high) = (high[0].0, tree(low), tree(high));
    let mut out = vec![jump(libc::BPF_JGE, first, 0, 1), statement(libc::BPF_JMP | libc::BPF_JA, low.len() as u32)];
    out.extend(low);
    out.extend(high);
    out
}

/// So many that every jump of a block reaches its end.
const MAX_BLOCK_RANGES: usize = 200;

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum Target {
    Comparison(usize),
    Verdict(Rule),
}

/// A tree of comparisons, followed by each verdict once: the kernel compiles the program for every step, and keeps a core busy with it.
#[derive(Default)]
struct Block {
    /// The first number of the upper part, and where numbers from it on and numbers below it lead.
    comparisons: Vec<(u32, Target, Target)>,
    /// Each verdict with its place behind the comparisons.
    verdicts: Vec<(Rule, usize)>,
    code: Program,
}

impl Block {
    fn of(ranges: &[(u32, Rule)]) -> Program {
        let mut block = Self::default();
        if let Target::Verdict(rule) = block.compare(ranges) {
            return leaf(rule);
        }
        let count = block.comparisons.len();
        let mut out = Program::new();
        for (at, (first, high, low)) in block.comparisons.iter().enumerate() {
            let distance = |target: &Target| {
                let to = match target {
                    Target::Comparison(to) => *to,
                    Target::Verdict(rule) => {
                        let place = block.verdicts.iter().find(|(of, _)| of == rule).map(|(_, place)| *place);
                        count + place.expect("every verdict has a place")
                    }
                };
                u8::try_from(to - at - 1).expect("a block is short")
            };
            out.push(jump(libc::BPF_JGE, *first, distance(high), distance(low)));
        }
        out.extend(block.code);
        out
    }

    fn compare(&mut self, ranges: &[(u32, Rule)]) -> Target {
        if let [(_, rule)] = ranges {
            if !self.verdicts.iter().any(|(of, _)| of == rule) {
                self.verdicts.push((*rule, self.code.len()));
                self.code.extend(leaf(*rule));
            }
            return Target::Verdict(*rule);
        }
        let at = self.comparisons.len();
        let (low, high) = ranges.split_at(ranges.len() / 2);
        self.comparisons.push((high[0].0, Target::Comparison(at), Target::Comparison(at)));
        let (low_target, high_target) = (self.compare(low), self.compare(high));
        self.comparisons[at] = (high[0].0, high_target, low_target);
        Target::Comparison(at)
    }
}

fn leaf(rule: Rule) -> Program {
    match rule {
        Rule::Allow => vec![allow()],
        Rule::Deny => vec![refuse(libc::EPERM)],
        Rule::NotImplemented => vec![refuse(libc::ENOSYS)],
        Rule::Families => {
            let tests = [jump(libc::BPF_JEQ, AF_ALG, 2, 0), jump(libc::BPF_JEQ, AF_VSOCK, 1, 0)];
            [load(OFFSET_ARGUMENT_0)].into_iter().chain(tests).chain([allow(), refuse(libc::EPERM)]).collect()
        }
        Rule::NoNamespaces => {
            vec![load(OFFSET_ARGUMENT_0), jump(libc::BPF_JSET, NAMESPACE_FLAGS, 1, 0), allow(), refuse(libc::EPERM)]
        }
        Rule::Mknod => mknod(1),
        Rule::MknodAt => mknod(2),
        Rule::Personality => {
            let count = PERSONALITIES.len() as u8;
            let tests = PERSONALITIES.iter().zip(1..).map(|(value, i)| jump(libc::BPF_JEQ, *value, count - i + 1, 0));
            [load(OFFSET_ARGUMENT_0)].into_iter().chain(tests).chain([refuse(libc::EPERM), allow()]).collect()
        }
    }
}

/// The call's mode is that argument, and its device the next one.
fn mknod(mode: u32) -> Program {
    let count = DEVICES.len() as u8;
    let argument = |number: u32| load(OFFSET_ARGUMENT_0 + number * ARGUMENT_BYTES);
    let mut out = vec![
        argument(mode),
        statement(libc::BPF_ALU | libc::BPF_AND, libc::S_IFMT),
        jump(libc::BPF_JEQ, libc::S_IFBLK, count + 2, 0),
        jump(libc::BPF_JEQ, libc::S_IFCHR, 0, count + 2),
        argument(mode + 1),
    ];
    out.extend(DEVICES.iter().zip(1..).map(|(device, at)| jump(libc::BPF_JEQ, *device, count - at + 1, 0)));
    out.extend([refuse(libc::EPERM), allow()]);
    out
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_K | test) as u16, jt, jf, k }
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn allow() -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)
}

fn refuse(errno: i32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(program: &[libc::sock_filter], arch: u32, number: u32, argument: u32) -> u32 {
        verdict_of(program, arch, number, [argument, 0, 0, 0])
    }

    fn verdict_of(program: &[libc::sock_filter], arch: u32, number: u32, arguments: [u32; 4]) -> u32 {
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let code = u32::from(i.code);
            let branch = |taken: bool| if taken { usize::from(i.jt) } else { usize::from(i.jf) };
            match code & 0x07 {
                libc::BPF_LD => {
                    a = match i.k {
                        OFFSET_ARCH => arch,
                        OFFSET_NUMBER => number,
                        argument => arguments[((argument - OFFSET_ARGUMENT_0) / ARGUMENT_BYTES) as usize],
                    };
                }
                libc::BPF_ALU => a &= i.k,
                libc::BPF_RET => return i.k,
                _ => {
                    pc += match code & 0xf0 {
                        libc::BPF_JA => i.k as usize,
                        libc::BPF_JEQ => branch(a == i.k),
                        libc::BPF_JGE => branch(a >= i.k),
                        libc::BPF_JSET => branch(a & i.k != 0),
                        other => panic!("jump {other}"),
                    }
                }
            }
        }
    }

    const OK: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_get_the_verdict_of_the_profile() {
        let (first, second) = (first_program(true), second_program());
        for (arch, number, argument, want, what) in [
            (AUDIT_ARCH_X86_64, 0, 0, OK, "read"),
            (AUDIT_ARCH_X86_64, 59, 0, OK, "execve"),
            (AUDIT_ARCH_X86_64, 165, 0, EPERM, "mount"),
            (AUDIT_ARCH_X86_64, 272, 0, EPERM, "unshare"),
            (AUDIT_ARCH_X86_64, 425, 0, EPERM, "io_uring_setup"),
            (AUDIT_ARCH_X86_64, 250, 0, EPERM, "keyctl"),
            (AUDIT_ARCH_X86_64, 161, 0, OK, "chroot, as the step has CAP_SYS_CHROOT"),
            (AUDIT_ARCH_X86_64, 56, 17, OK, "clone"),
            (AUDIT_ARCH_X86_64, 56, libc::CLONE_NEWUSER as u32, EPERM, "clone(NEWUSER)"),
            (AUDIT_ARCH_X86_64, 435, 0, ENOSYS, "clone3"),
            (AUDIT_ARCH_X86_64, 41, 2, OK, "socket(AF_INET)"),
            (AUDIT_ARCH_X86_64, 41, AF_VSOCK, EPERM, "socket(AF_VSOCK)"),
            (AUDIT_ARCH_X86_64, 41, AF_ALG, EPERM, "socket(AF_ALG)"),
            (AUDIT_ARCH_X86_64, 41, 39, OK, "socket(AF_NFC)"),
            (AUDIT_ARCH_I386, 359, AF_ALG, EPERM, "socket(AF_ALG) of a 32-bit program"),
            (AUDIT_ARCH_X86_64, 135, 0, OK, "personality(0)"),
            (AUDIT_ARCH_X86_64, 135, 0xffff_ffff, OK, "personality(query)"),
            (AUDIT_ARCH_X86_64, 135, 0x8, OK, "personality(PER_LINUX32)"),
            (AUDIT_ARCH_X86_64, 135, 0x4_0000, EPERM, "personality(ADDR_NO_RANDOMIZE)"),
            (AUDIT_ARCH_X86_64, 466, 0, OK, "removexattrat"),
            (AUDIT_ARCH_X86_64, 467, 0, ENOSYS, "newer than the table"),
            (AUDIT_ARCH_X86_64, X32_BIT, 0, OK, "x32 read"),
            (AUDIT_ARCH_X86_64, X32_BIT + 520, 0, OK, "x32 execve"),
            (AUDIT_ARCH_X86_64, X32_BIT + 165, 0, EPERM, "x32 mount"),
            (AUDIT_ARCH_I386, 3, 0, OK, "i386 read"),
            (AUDIT_ARCH_I386, 21, 0, EPERM, "i386 mount"),
            (AUDIT_ARCH_I386, 120, libc::CLONE_NEWNS as u32, EPERM, "i386 clone(NEWNS)"),
            (AUDIT_ARCH_I386, 102, 0, OK, "i386 socketcall"),
            (AUDIT_ARCH_AARCH64, 63, 0, ENOSYS, "an architecture that this kernel cannot have"),
        ] {
            let verdicts = [&first, &second].map(|program| verdict(program, arch, number, argument));
            // Of the two the kernel takes the one with the lower number, but for errors, which are equal here.
            assert_eq!(verdicts.into_iter().find(|verdict| *verdict != OK).unwrap_or(OK), want, "{what}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_devices_those_are_made_that_every_container_may_open() {
        let program = first_program(true);
        let (character, block, fifo) = (libc::S_IFCHR | 0o644, libc::S_IFBLK | 0o644, libc::S_IFIFO | 0o644);
        for (mode, device, want) in [
            (character, libc::makedev(1, 3) as u32, OK),
            (character, libc::makedev(10, 200) as u32, OK),
            (character, libc::makedev(0, 0) as u32, OK),
            (character, libc::makedev(10, 229) as u32, EPERM),
            (character, libc::makedev(1, 1) as u32, EPERM),
            (character, libc::makedev(1, 3 + 256) as u32, EPERM),
            (block, libc::makedev(1, 3) as u32, EPERM),
            (block, libc::makedev(254, 0) as u32, EPERM),
            (fifo, 77, OK),
            (0o644, 77, OK),
            (libc::S_IFSOCK, 77, OK),
        ] {
            for (arch, number) in [(AUDIT_ARCH_X86_64, 133), (AUDIT_ARCH_I386, 14), (AUDIT_ARCH_X86_64, X32_BIT + 133)] {
                assert_eq!(verdict_of(&program, arch, number, [9, mode, device, 9]), want, "{arch:x} {number} {mode:o} {device:x}");
            }
            for (arch, number) in [(AUDIT_ARCH_X86_64, 259), (AUDIT_ARCH_I386, 297)] {
                assert_eq!(verdict_of(&program, arch, number, [9, 9, mode, device]), want, "{arch:x} {number} {mode:o} {device:x}");
            }
        }
    }

    #[test]
    fn what_sets_a_step_up_is_refused_by_the_second_program_alone() {
        let arch = if cfg!(target_arch = "aarch64") { AUDIT_ARCH_AARCH64 } else { AUDIT_ARCH_X86_64 };
        let (first, second) = (first_program(true), second_program());
        for number in 0..=NEWEST {
            let is_of_set_up = SET_UP.contains(&libc::c_long::from(number));
            assert_eq!(verdict(&second, arch, number, 0), if is_of_set_up { EPERM } else { OK }, "{number}");
            assert!(!is_of_set_up || verdict(&first, arch, number, 0) == OK, "{number}");
        }
        for (flags, want) in [(libc::CLONE_NEWPID, EPERM), (libc::CLONE_NEWUSER, EPERM), (libc::CLONE_VM, OK)] {
            let verdicts = [&first, &second].map(|program| verdict(program, arch, libc::SYS_clone as u32, flags as u32));
            assert_eq!(verdicts, [OK, want], "{flags:#x}");
        }
        assert!(TABLE.iter().all(|(name, ..)| !["mount", "umount2", "move_mount", "pivot_root"].contains(name)));
    }

    #[test]
    fn the_program_fits_and_the_table_is_sorted() {
        let lens = [true, false].map(|with_x32| first_program(with_x32).len());
        assert!(lens[0] < 1450 && lens[1] < 1000, "{lens:?}");
        assert!(TABLE.windows(2).all(|w| w[0].0 < w[1].0));
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm] {
            let code = search(abi, false);
            for (name, rule, numbers) in TABLE.iter().filter(|(_, rule, _)| *rule == Rule::Allow) {
                let Ok(number) = u32::try_from(numbers[abi as usize]) else { continue };
                let whole: Program = [load(OFFSET_NUMBER)].into_iter().chain(code.clone()).collect();
                assert_eq!(verdict(&whole, 0, number, 0), OK, "{name} {abi:?} {rule:?}");
            }
        }
    }
}
