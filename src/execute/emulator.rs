//! Whether commands of another platform run here: through an emulator that binfmt_misc knows.
//!
//! It is found out by doing: a program of that platform which does nothing but end is started. What binfmt_misc says about itself is
//! read only to tell whether the emulator is also found inside of a step, where other files lie under its path.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::StepError;
use crate::oci::platform::Platform;

/// Where binfmt_misc shows what is registered.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// Tries to start a file that some process forked meanwhile still has open for writing.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Where the program lies in memory.
const LOAD_ADDRESS: u64 = 0x40_0000;

/// Why commands of a platform do not run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEmulator {
    /// Nobody is registered for it.
    None,
    /// Programs of another system, or of an architecture that nobody emulates.
    Impossible,
    /// The emulator is registered by its path alone, which means nothing inside of a step.
    ByPath(PathBuf),
}

impl std::fmt::Display for NoEmulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("no emulator is registered"),
            Self::Impossible => f.write_str("no emulator for it is known"),
            Self::ByPath(path) => {
                write!(f, "the emulator {} is registered without the flag F, so no step can find it", path.display())
            }
        }
    }
}

/// Refuses a platform whose commands do not run here. `tmp` is a directory for the program that is tried.
pub(super) fn check(platform: &Platform, tmp: &Path) -> Result<(), StepError> {
    let native = Platform::native();
    if native.can_run(platform) {
        return Ok(());
    }
    let refused = |why| Err(StepError::Foreign { platform: platform.to_string(), native: native.to_string(), why });
    let Some(program) = program(&platform.architecture).filter(|_| platform.os == native.os) else {
        return refused(NoEmulator::Impossible);
    };
    if !runs(&program, tmp)? {
        return refused(NoEmulator::None);
    }
    match registered().into_iter().find(|entry| entry.takes(&program)) {
        Some(entry) if !entry.is_fixed => refused(NoEmulator::ByPath(entry.interpreter)),
        // The kernel did it, whatever can be read about how.
        _ => Ok(()),
    }
}

/// Starts a program that ends with 0.
fn runs(program: &[u8], tmp: &Path) -> Result<bool, StepError> {
    let path = tmp.join("foreign");
    let failed = |deed| StepError::io(deed, &path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path).map_err(failed("make"))?;
    io::Write::write_all(&mut file, program).map_err(failed("write"))?;
    drop(file);
    let start = || Command::new(&path).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut started = start();
    for _ in 0..BUSY_TRIES {
        if !matches!(&started, Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        started = start();
    }
    drop(fs::remove_file(&path));
    // Whatever it is that refuses: it did not run.
    Ok(started.is_ok_and(|status| status.success()))
}

/// What binfmt_misc has under one name.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    interpreter: PathBuf,
    /// The interpreter was opened when it was registered (`F`).
    is_fixed: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

fn registered() -> Vec<Entry> {
    let Ok(dir) = fs::read_dir(REGISTERED) else { return Vec::new() };
    let texts = dir.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| Entry::parse(&text)).collect()
}

impl Entry {
    /// Reads an entry; `None` if it is off, or goes by file names.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "enabled" {
            return None;
        }
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
        let field = |name: &str| fields.iter().find(|(key, _)| key.trim_end_matches(':') == name).map(|(_, value)| *value);
        let magic = unhex(field("magic")?)?;
        Some(Self {
            interpreter: field("interpreter")?.into(),
            is_fixed: field("flags").unwrap_or_default().contains('F'),
            offset: field("offset").and_then(|text| text.parse().ok()).unwrap_or(0),
            mask: field("mask").and_then(unhex).unwrap_or_else(|| vec![0xff; magic.len()]),
            magic,
        })
    }

    fn takes(&self, program: &[u8]) -> bool {
        let Some(part) = program.get(self.offset..self.offset + self.magic.len()) else { return false };
        part.iter().zip(&self.magic).zip(&self.mask).all(|((byte, magic), mask)| byte & mask == magic & mask)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect())
        .flatten()
}

/// How programs of an architecture begin, and the instructions of `exit(0)`.
struct Machine {
    number: u16,
    flags: u32,
    is_64_bit: bool,
    is_big_endian: bool,
    code: &'static [u8],
}

impl Machine {
    const fn new(number: u16, is_64_bit: bool, code: &'static [u8]) -> Self {
        Self { number, flags: 0, is_64_bit, is_big_endian: false, code }
    }

    fn of(architecture: &str) -> Option<Self> {
        Some(match architecture {
            "amd64" => Self::new(62, true, b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"),
            "386" => Self::new(3, false, b"\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80"),
            "arm64" => Self::new(183, true, b"\xa8\x0b\x80\xd2\x00\x00\x80\xd2\x01\x00\x00\xd4"),
            "arm" => Self { flags: 0x0500_0000, ..Self::new(40, false, b"\x01\x70\xa0\xe3\x00\x00\xa0\xe3\x00\x00\x00\xef") },
            "riscv64" => Self::new(243, true, b"\x93\x08\xd0\x05\x13\x05\x00\x00\x73\x00\x00\x00"),
            "ppc64le" => Self { flags: 2, ..Self::new(21, true, b"\x01\x00\x00\x38\x00\x00\x60\x38\x02\x00\x00\x44") },
            "s390x" => Self { is_big_endian: true, ..Self::new(22, true, b"\xa7\x29\x00\x00\x0a\x01") },
            "loong64" => Self { flags: 0x43, ..Self::new(258, true, b"\x0b\x74\x81\x02\x04\x00\x80\x02\x00\x00\x2b\x00") },
            _ => return None,
        })
    }
}

/// A program of an architecture that ends with 0.
fn program(architecture: &str) -> Option<Vec<u8>> {
    let machine = Machine::of(architecture)?;
    let mut elf = Elf { bytes: Vec::new(), machine: &machine };
    let (header, segment) = if machine.is_64_bit { (64, 56) } else { (52, 32) };
    let start = header + segment;
    let size = start + machine.code.len() as u64;
    elf.bytes.extend([0x7f, b'E', b'L', b'F', 1 + u8::from(machine.is_64_bit), 1 + u8::from(machine.is_big_endian), 1]);
    elf.bytes.resize(16, 0);
    elf.half(2);
    elf.half(machine.number);
    elf.word(1);
    elf.address(LOAD_ADDRESS + start);
    elf.address(header);
    elf.address(0);
    elf.word(machine.flags);
    for half in [header as u16, segment as u16, 1, 0, 0, 0] {
        elf.half(half);
    }
    // One segment: the whole file, to be read and executed.
    elf.word(1);
    if machine.is_64_bit {
        elf.word(5);
    }
    for address in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size] {
        elf.address(address);
    }
    if !machine.is_64_bit {
        elf.word(5);
    }
    elf.address(0x1000);
    elf.bytes.extend(machine.code);
    Some(elf.bytes)
}

/// Bytes of an ELF file in the machine's order and width.
struct Elf<'a> {
    bytes: Vec<u8>,
    machine: &'a Machine,
}

impl Elf<'_> {
    fn half(&mut self, value: u16) {
        self.bytes.extend(if self.machine.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn word(&mut self, value: u32) {
        self.bytes.extend(if self.machine.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn address(&mut self, value: u64) {
        match (self.machine.is_64_bit, self.machine.is_big_endian) {
            (true, true) => self.bytes.extend(value.to_be_bytes()),
            (true, false) => self.bytes.extend(value.to_le_bytes()),
            (false, _) => self.word(value as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AARCH64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\nmagic \
        7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_entry_takes_the_programs_of_its_architecture() {
        let entry = Entry::parse(AARCH64).expect("enabled");
        assert!(entry.is_fixed && entry.interpreter.ends_with("qemu-aarch64-static"));
        for (architecture, taken) in [("arm64", true), ("arm", false), ("riscv64", false), ("amd64", false)] {
            assert_eq!(entry.takes(&program(architecture).expect("known")), taken, "{architecture}");
        }
        assert!(!Entry::parse(&AARCH64.replace("OCF", "OC")).expect("enabled").is_fixed);
        assert_eq!(Entry::parse(&AARCH64.replace("enabled", "disabled")), None);
        assert_eq!(Entry::parse("enabled\ninterpreter /x\nflags: \nextension .x\n"), None);
    }

    #[test]
    fn the_program_of_this_machine_runs_and_one_of_no_machine_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let own = program(&Platform::native().architecture).expect("known");
        assert!(runs(&own, tmp.path()).unwrap());
        let mut strange = own;
        strange[18..20].copy_from_slice(&[0xfe, 0xfe]);
        assert!(!runs(&strange, tmp.path()).unwrap());
    }
}
