//! `RUN --mount`.

use super::error::{PlanError, PlanErrorKind};
use super::graph::{CopySource, FileOwner, MountSharing, RunMount, secret_mount};
use super::outline::OutlineMount;
use super::paths;
use super::stage::{StageLowering, Step};
use crate::dockerfile::flags::csv_fields;
use crate::dockerfile::suggest::suggest;
use crate::dockerfile::word::quote;
use crate::span::Spanned;

/// Where the socket of the n-th agent is, if the mount does not say.
const SSH_TARGET: &str = "/run/buildkit/ssh_agent.";
const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Kind {
    const ALL: [(&'static str, Self); 5] =
        [("bind", Self::Bind), ("cache", Self::Cache), ("secret", Self::Secret), ("ssh", Self::Ssh), ("tmpfs", Self::Tmpfs)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("bind", |(name, _)| name)
    }
}

/// A mount as written, after expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Written {
    kind: Kind,
    from: String,
    source: String,
    target: String,
    id: String,
    read_only: Option<bool>,
    required: bool,
    size_bytes: Option<u64>,
    sharing: Option<MountSharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

type Fault = String;

/// Reads the fields; `expand` gives values their variables. The sentences are BuildKit's.
fn parse(fields: &[String], mut expand: impl FnMut(&str) -> Result<String, PlanError>) -> Result<Result<Written, Fault>, PlanError> {
    let mut written = Written::default();
    for field in fields {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        let taken = match value {
            Some(value) => written.take(&key, &expand(value)?, field),
            None => written.take_word(&key, field),
        };
        if let Err(fault) = taken {
            return Ok(Err(fault));
        }
    }
    Ok(written.checked())
}

impl Written {
    fn take_word(&mut self, key: &str, field: &str) -> Result<(), Fault> {
        match key {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for(&[Kind::Secret, Kind::Ssh], key)?;
                self.required = true;
            }
            _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &str, field: &str) -> Result<(), Fault> {
        let invalid = || format!("invalid value for {key}: {value}");
        let number = |radix| u32::from_str_radix(value, radix).map_err(|_| format!("invalid value {value} for {key}"));
        match key {
            "type" => {
                let lower = value.to_lowercase();
                let known = Kind::ALL.into_iter().find(|(name, _)| *name == lower);
                self.kind = known.map(|(_, kind)| kind).ok_or_else(|| {
                    let names = Kind::ALL.map(|(name, _)| name);
                    format!("unsupported mount type {}{}", quote(value), did_you_mean(value, &names))
                })?;
            }
            "from" => self.from = value.into(),
            "source" | "src" => self.source = value.into(),
            "target" | "dst" | "destination" => self.target = value.into(),
            "readonly" | "ro" => self.read_only = Some(parse_bool(value).ok_or_else(invalid)?),
            "readwrite" | "rw" => self.read_only = Some(!parse_bool(value).ok_or_else(invalid)?),
            "required" => {
                self.only_for(&[Kind::Secret, Kind::Ssh], key)?;
                self.required = parse_bool(value).ok_or_else(invalid)?;
            }
            "size" => {
                self.only_for(&[Kind::Tmpfs], key)?;
                self.size_bytes = Some(parse_size(value).ok_or_else(invalid)?);
            }
            "id" => self.id = value.into(),
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => MountSharing::Shared,
                    "private" => MountSharing::Private,
                    "locked" => MountSharing::Locked,
                    _ => {
                        let near = did_you_mean(value, &["shared", "private", "locked"]);
                        return Err(format!("unsupported sharing value {}{near}", quote(value)));
                    }
                });
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value.into()),
            _ => return Err(format!("unexpected key '{key}' in '{field}'{}", did_you_mean(key, KEYS))),
        }
        Ok(())
    }

    /// Refuses a key that the type, as far as it is known here, does not have.
    fn only_for(&self, kinds: &[Kind], key: &str) -> Result<(), Fault> {
        if kinds.contains(&self.kind) { Ok(()) } else { Err(format!("unexpected key '{key}' for mount type '{}'", self.kind.name())) }
    }

    fn checked(self) -> Result<Self, Fault> {
        if matches!(self.kind, Kind::Bind | Kind::Tmpfs) {
            for (key, is_set) in [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())] {
                if is_set {
                    return Err(format!("{key} not allowed for {} type mounts", quote(self.kind.name())));
                }
            }
        }
        if self.kind == Kind::Secret {
            if !self.from.is_empty() {
                return Err("secret mount should not have a from".into());
            }
            if self.sharing.is_some() {
                return Err("secret mount should not define sharing".into());
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err("invalid secret mount. one of source, target required".into());
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err("both source and id can't be set".into());
            }
        }
        if self.sharing.is_some() && self.kind != Kind::Cache {
            return Err(format!("invalid cache sharing set for {} mount", self.kind.name()));
        }
        if self.kind == Kind::Ssh && !self.source.is_empty() {
            return Err("ssh does not support source".into());
        }
        Ok(self)
    }

    fn owner(&self, mode: u32) -> FileOwner {
        FileOwner { mode: self.mode.unwrap_or(mode), uid: self.uid.unwrap_or(0), gid: self.gid.unwrap_or(0) }
    }
}

fn did_you_mean(given: &str, known: &[&str]) -> String {
    suggest(given, known.iter().copied(), true).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5GiB`, `4096`: powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit)?;
    Some((number * 1024_f64.powi(power as i32)) as u64)
}

impl StageLowering<'_, '_, '_> {
    /// The mounts of a RUN, parents before what lies in them; and the parts in keys of those that have a secret in them.
    pub(crate) fn mounts(&mut self, step: &Step<'_>, written: &[Spanned<String>]) -> Result<(Vec<RunMount>, Vec<String>), PlanError> {
        let mut mounts = Vec::new();
        let mut agents = 0;
        for text in written {
            let fault = |fault| PlanError::at(step.at(text.span), PlanErrorKind::BadMount(fault));
            // The parser has read it once already.
            let fields = csv_fields(&text.node).map_err(|error| fault(error.to_string()))?;
            let mut is_secret = false;
            let expand = |value: &str| {
                is_secret |= self.names_secret(value);
                self.word(step, &Spanned::new(value.to_owned(), text.span))
            };
            let mount = parse(&fields, expand)?.map_err(fault)?;
            is_secret |= !mount.target.is_empty() && self.is_secret_path("", &mount.target);
            let mount = self.mount(&mount, agents).map_err(|kind| PlanError::at(step.at(text.span), kind))?;
            agents += usize::from(matches!(mount, RunMount::Ssh { .. }));
            self.note_lent(step, &mount);
            mounts.push((mount, is_secret));
        }
        mounts.sort_by(|(a, _), (b, _)| a.target().cmp(&b.target()));
        let secret = mounts.iter().enumerate().filter(|(_, (_, is_secret))| *is_secret).map(|(at, _)| secret_mount(at)).collect();
        Ok((mounts.into_iter().map(|(mount, _)| mount).collect(), secret))
    }

    /// What the outline tells of a mount; the first of an id counts.
    fn note_lent(&mut self, step: &Step<'_>, mount: &RunMount) {
        let (list, id, required) = match mount {
            RunMount::Secret { id, required, .. } => (&mut self.asked().secrets, id, *required),
            RunMount::Ssh { id, required, .. } => (&mut self.asked().ssh, id, *required),
            RunMount::Bind { .. } | RunMount::Cache { .. } | RunMount::Tmpfs { .. } => return,
        };
        if list.iter().all(|known| known.id != *id) {
            list.push(OutlineMount { id: id.clone(), required, span: step.span });
        }
    }

    fn mount(&mut self, written: &Written, agents: usize) -> Result<RunMount, PlanErrorKind> {
        let path = paths::clean(&written.source);
        Ok(match written.kind {
            Kind::Bind => RunMount::Bind {
                source: match written.from.as_str() {
                    "" => CopySource::Context(None),
                    from => self.mount_source(from, &written.target)?,
                },
                path,
                target: self.mount_target(&written.target)?,
                writable: written.read_only == Some(false),
            },
            Kind::Tmpfs => RunMount::Tmpfs {
                target: self.mount_target(&written.target)?,
                size_bytes: written.size_bytes.filter(|b| *b > 0),
                writable: written.read_only != Some(true),
            },
            Kind::Cache => {
                let namespace = self.options().build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default();
                let id = if written.id.is_empty() { paths::cleaned(&written.target) } else { written.id.clone() };
                let is_owned = path == "/" && (written.mode.is_some() || written.uid.is_some() || written.gid.is_some());
                RunMount::Cache {
                    id: format!("{namespace}/{id}"),
                    from: match written.from.as_str() {
                        "" => None,
                        from => Some(self.mount_source(from, &written.target)?),
                    },
                    path,
                    target: self.mount_target(&written.target)?,
                    sharing: written.sharing.unwrap_or_default(),
                    owner: is_owned.then(|| written.owner(0o755)),
                    writable: written.read_only != Some(true),
                }
            }
            Kind::Secret => self.secret(written)?,
            Kind::Ssh => RunMount::Ssh {
                id: if written.id.is_empty() { "default".into() } else { written.id.clone() },
                target: match written.target.as_str() {
                    "" => format!("{SSH_TARGET}{agents}"),
                    target => self.mount_target(target)?,
                },
                required: written.required,
                owner: written.owner(0o600),
            },
        })
    }

    fn secret(&self, written: &Written) -> Result<RunMount, PlanErrorKind> {
        let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let id = match (written.source.as_str(), written.id.as_str()) {
            ("", "") => base(&written.target),
            ("", id) => id.to_owned(),
            (source, _) => source.to_owned(),
        };
        let target = match (written.target.as_str(), &written.env) {
            ("", Some(_)) => None,
            ("", None) => Some(format!("/run/secrets/{}", base(&id))),
            (target, _) => Some(self.mount_target(target)?),
        };
        Ok(RunMount::Secret { id, target, env: written.env.clone(), required: written.required, owner: written.owner(0o400) })
    }

    fn mount_target(&self, written: &str) -> Result<String, PlanErrorKind> {
        let target = if written.starts_with('/') {
            paths::clean(written)
        } else {
            paths::clean(&format!("{}/{written}", self.state.config.config.working_dir))
        };
        if target == "/" { Err(PlanErrorKind::BadMount(format!("invalid mount target {}", quote(&target)))) } else { Ok(target) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Written, Fault> {
        parse(&csv_fields(text).expect("a row"), |value| Ok(value.to_owned())).expect("nothing to expand")
    }

    #[test]
    fn what_cannot_be_is_refused_in_buildkit_s_words() {
        for (text, fault) in [
            ("type=bnd", "unsupported mount type \"bnd\" (did you mean bind?)"),
            ("rw,oops", "invalid field 'oops' must be a key=value pair"),
            ("type=cache,sharing=none", "unsupported sharing value \"none\""),
            ("sharing=shared", "invalid cache sharing set for bind mount"),
            ("type=tmpfs,mode=755", "mode not allowed for \"tmpfs\" type mounts"),
            ("uid=1", "uid not allowed for \"bind\" type mounts"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            ("type=secret,id=a,from=b", "secret mount should not have a from"),
            ("type=secret,id=a,sharing=shared", "secret mount should not define sharing"),
            ("type=ssh,source=/a", "ssh does not support source"),
            ("required", "unexpected key 'required' for mount type 'bind'"),
            ("size=1m", "unexpected key 'size' for mount type 'bind'"),
            ("type=cache,mode=9", "invalid value 9 for mode"),
            ("ro=perhaps", "invalid value for ro: perhaps"),
            ("tarket=/x", "unexpected key 'tarket' in 'tarket=/x' (did you mean target?)"),
        ] {
            assert_eq!(read(text), Err(fault.into()), "{text}");
        }
    }

    #[test]
    fn fields_have_many_spellings() {
        let written = read("TYPE=Cache,dst=/x,id=a,sharing=Locked,mode=0751,uid=1,ro").expect("valid");
        assert_eq!((written.kind, written.target.as_str(), written.sharing), (Kind::Cache, "/x", Some(MountSharing::Locked)));
        assert_eq!((written.owner(0), written.read_only), (FileOwner { mode: 0o751, uid: 1, gid: 0 }, Some(true)));
        assert_eq!(read("type=tmpfs,size=1.5k").expect("valid").size_bytes, Some(1536));
        assert_eq!(read("rw=false").expect("valid").read_only, Some(true));
    }
}
