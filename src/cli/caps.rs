//! `[gc]` of `config.toml`: what the store keeps to by itself.
//!
//! ```toml
//! [gc]
//! enabled = true
//! max-size = "100GB"        # of the build cache; a share of the disk works, too: "80%"
//! min-free = "20GB"         # of the disk, for everybody
//! reserved = "10GB"         # of the build cache, which stays even if less of the disk is free
//! keep-duration = "60d"     # what was not used for so long goes
//! max-checkouts = "5GB"     # of git repositories
//! keep-builds = 1000        # records with their logs
//! ```
//! A 0 takes a limit away. Images that have a name are no cache and stay.

use serde::Deserialize;
use shale_cache::{Disk, Policy};

use super::human;
use super::values::parse_bytes;
use crate::dockerfile::duration::parse_duration;

const NANOS: i64 = 1_000_000_000;
const DAY_SECS: i64 = 24 * 3600;

/// The section; what is not said has a default that depends on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GcSection {
    /// Whether anything goes by itself; records of builds do in any case.
    pub enabled: Option<bool>,
    /// The most that the build cache may take.
    pub max_size: Option<Amount>,
    /// What stays free.
    pub min_free: Option<Amount>,
    /// What of the cache stays.
    pub reserved: Option<Amount>,
    /// How long what is not used stays.
    pub keep_duration: Option<Age>,
    /// The most that git checkouts may take.
    pub max_checkouts: Option<Amount>,
    /// How many builds are recorded.
    pub keep_builds: Option<usize>,
}

/// A size, or a share of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Percent of the disk.
    Percent(u64),
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub struct Age(pub i64);

/// What a value of the file may be.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for Amount {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, String> {
        let text = match value {
            NumberOrText::Number(bytes) => return Ok(Self::Bytes(bytes)),
            NumberOrText::Text(text) => text,
        };
        match text.trim().strip_suffix('%') {
            Some(percent) => match percent.trim_end().parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(format!("invalid share: {text:?}")),
            },
            None => parse_bytes(text.trim()).map(Self::Bytes),
        }
    }
}

impl TryFrom<NumberOrText> for Age {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, String> {
        let seconds = match &value {
            NumberOrText::Number(seconds) => i64::try_from(*seconds).ok(),
            NumberOrText::Text(text) => match text.strip_suffix('d').map(str::parse::<u32>) {
                Some(days) => days.ok().map(|days| i64::from(days) * DAY_SECS),
                None => parse_duration(text).ok().map(|nanos| nanos / NANOS).filter(|seconds| *seconds >= 0),
            },
        };
        seconds.map(Self).ok_or_else(|| "a duration is like \"60d\", \"48h\" or a number of seconds".to_owned())
    }
}

impl Amount {
    fn bytes(self, disk: Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.total_bytes / 100 * percent,
        }
    }
}

impl GcSection {
    /// Whether anything but records of builds goes by itself.
    pub fn is_enabled(&self) -> bool {
        self.enabled != Some(false)
    }

    /// What it means on a disk.
    pub fn policy(&self, disk: Disk) -> Policy {
        let usual = Policy::of_disk(disk.total_bytes);
        let keep_builds = self.keep_builds.unwrap_or(usual.keep_builds);
        if !self.is_enabled() {
            let none = Policy { max_bytes: 0, min_free_bytes: 0, reserved_bytes: 0, keep_secs: 0, max_checkout_bytes: 0, keep_builds };
            return none;
        }
        let or = |said: Option<Amount>, usual| said.map_or(usual, |amount| amount.bytes(disk));
        let max_bytes = or(self.max_size, usual.max_bytes);
        // Who wants less than is reserved by default does not want that.
        let reserved_bytes = if max_bytes == 0 { usual.reserved_bytes } else { usual.reserved_bytes.min(max_bytes) };
        Policy {
            max_bytes,
            min_free_bytes: or(self.min_free, usual.min_free_bytes),
            reserved_bytes: or(self.reserved, reserved_bytes),
            keep_secs: self.keep_duration.map_or(usual.keep_secs, |age| age.0),
            max_checkout_bytes: or(self.max_checkouts, usual.max_checkout_bytes),
            keep_builds,
        }
    }

    /// The same for people, in one line.
    pub fn describe(&self, disk: Disk) -> String {
        if !self.is_enabled() {
            return "none: enabled = false in [gc] of config.toml".to_owned();
        }
        let policy = self.policy(disk);
        let parts = [
            (policy.max_bytes, format!("at most {}", human::size(policy.max_bytes))),
            (policy.min_free_bytes, format!("{} of the disk stay free", human::size(policy.min_free_bytes))),
            (policy.reserved_bytes, format!("{} are reserved", human::size(policy.reserved_bytes))),
            (policy.keep_secs as u64, format!("unused for {} goes", human::span(policy.keep_secs as u64))),
            (policy.max_checkout_bytes, format!("checkouts at most {}", human::size(policy.max_checkout_bytes))),
        ];
        let said: Vec<String> = parts.into_iter().filter(|(value, _)| *value != 0).map(|(_, text)| text).collect();
        if said.is_empty() { "none".to_owned() } else { said.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk { total_bytes: 500_000_000_000, free_bytes: 0, lacks_inodes: false };

    fn section(text: &str) -> Result<GcSection, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_sizes_shares_and_durations() {
        let all = "max-size = \"20GB\"\nmin-free = \"10%\"\nreserved = 4096\nkeep-duration = \"14d\"\nmax-checkouts = 0\nkeep-builds = 7\n";
        let policy = section(all).unwrap().policy(DISK);
        let expected = Policy {
            max_bytes: 20 << 30,
            min_free_bytes: 50_000_000_000,
            reserved_bytes: 4096,
            keep_secs: 14 * DAY_SECS,
            max_checkout_bytes: 0,
            keep_builds: 7,
        };
        assert_eq!(policy, expected);
        assert_eq!(section("keep-duration = \"36h\"").unwrap().keep_duration, Some(Age(36 * 3600)));
        assert_eq!(section("").unwrap().policy(DISK), Policy::of_disk(DISK.total_bytes));
        assert_eq!(section("max-size = \"1GB\"").unwrap().policy(DISK).reserved_bytes, 1 << 30);
        let off = section("enabled = false\nmax-size = 5").unwrap().policy(DISK);
        assert_eq!((off.max_bytes, off.min_free_bytes, off.keep_secs, off.keep_builds), (0, 0, 0, 1000));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("max-size = \"lots\"", "invalid size: \"lots\""),
            ("min-free = \"120%\"", "invalid share: \"120%\""),
            ("keep-duration = \"soon\"", "a duration is like"),
            ("keep-duration = \"-1h\"", "a duration is like"),
            ("max-sise = 1", "unknown field `max-sise`"),
        ] {
            let error = section(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_caps_are_told_in_a_line() {
        let told = |text: &str| section(text).unwrap().describe(DISK);
        assert_eq!(
            told(""),
            "at most 100GB, 20GB of the disk stay free, 10GB are reserved, unused for 2 months goes, checkouts at most 5GB"
        );
        assert_eq!(told("min-free = 0\nkeep-duration = 0\nmax-checkouts = 0"), "at most 100GB, 10GB are reserved");
        assert_eq!(told("enabled = false"), "none: enabled = false in [gc] of config.toml");
    }
}
