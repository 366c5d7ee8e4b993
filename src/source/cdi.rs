//! Devices by the Container Device Interface: files that say what of the machine makes up a device, read for `RUN --device`.
//!
//! The format is CDI's, which names a device `vendor/class=name`. What a name means is BuildKit's: the kind alone is the first device of
//! that kind, `*` all of them, and a name without a vendor is a class that devices carry as an annotation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::plan::AllowedDevices;
use crate::plan::graph::DeviceWish;

const CLASS: &str = "org.mobyproject.buildkit.device.class";
const ALLOWED: &str = "org.mobyproject.buildkit.device.autoallow";
/// The longest file that is read.
const LIMIT_BYTES: u64 = 4 << 20;

/// Devices that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A file that cannot be read.
    #[error("cannot read the device specification {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no specification.
    #[error("invalid device specification {}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Nobody knows the device.
    #[error("required device {name:?} is not registered")]
    NotRegistered {
        /// As the step has it.
        name: String,
    },
    /// The device is there, but nobody granted it.
    #[error("{} requested by the build but not allowed", requested(names))]
    NotAllowed {
        /// Full names; never empty.
        names: Vec<String>,
    },
    /// It asks for something that is not done here.
    #[error("the device {name} asks for {what}, which is not supported yet")]
    Unsupported {
        /// Its full name.
        name: String,
        /// What it asks for: the key in its specification.
        what: String,
    },
}

fn requested(names: &[String]) -> String {
    if let [one] = names { format!("device {one} is") } else { format!("devices {} are", names.join(", ")) }
}

impl CdiError {
    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAllowed { names } => Some(format!("add --allow device={}", names[0])),
            Self::NotRegistered { .. } => Some("devices are described in files of /etc/cdi and /var/run/cdi, in YAML or JSON".into()),
            _ => None,
        }
    }
}

/// What a device adds to a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `KEY=value`
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Files and directories of the machine.
    pub mounts: Vec<DeviceMount>,
    /// Groups of the process.
    #[serde(rename = "additionalGIDs")]
    pub additional_gids: Vec<u32>,
    /// Whatever else it asks for.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the step.
    pub path: String,
    /// On the machine, if it is another one there.
    #[serde(default)]
    pub host_path: String,
}

/// A file or directory of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceMount {
    /// On the machine.
    pub host_path: String,
    /// In the step.
    pub container_path: String,
    /// As mount(8) has them.
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<SpecDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug)]
struct Device {
    annotations: BTreeMap<String, String>,
    edits: Edits,
    /// Number of the file that it is from, among those with edits for all their devices.
    spec: usize,
}

/// The devices of this machine, by their full names.
#[derive(Debug, Default)]
pub struct Devices {
    known: BTreeMap<String, Device>,
    specs: Vec<Edits>,
}

impl Devices {
    /// Reads the specifications in some directories. Of several with one name the one in the later directory counts, as in CDI.
    pub fn read(dirs: &[PathBuf]) -> Result<Self, CdiError> {
        let mut all = Self::default();
        for dir in dirs {
            let mut files: Vec<PathBuf> = match fs::read_dir(dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(source) => return Err(CdiError::Read { path: dir.clone(), source }),
            };
            files.sort();
            for path in files {
                match path.extension().and_then(std::ffi::OsStr::to_str) {
                    Some("json") => all.add(&path, |text| serde_json::from_str(text).map_err(|error| error.to_string()))?,
                    Some("yaml" | "yml") => all.add(&path, |text| serde_saphyr::from_str(text).map_err(|error| error.to_string()))?,
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path, parse: impl Fn(&str) -> Result<Spec, String>) -> Result<(), CdiError> {
        let invalid = |detail: String| CdiError::Invalid { path: path.into(), detail };
        let failed = |source| CdiError::Read { path: path.into(), source };
        if fs::metadata(path).map_err(failed)?.len() > LIMIT_BYTES {
            return Err(invalid("it is too long".into()));
        }
        let spec = parse(&fs::read_to_string(path).map_err(failed)?).map_err(invalid)?;
        if spec.kind.split_once('/').is_none_or(|(vendor, class)| vendor.is_empty() || class.is_empty()) {
            return Err(invalid(format!("its kind {:?} is not vendor/class", spec.kind)));
        }
        self.specs.push(spec.container_edits);
        for device in spec.devices {
            let mut annotations = spec.annotations.clone();
            annotations.extend(device.annotations);
            let name = format!("{}={}", spec.kind, device.name);
            self.known.insert(name, Device { annotations, edits: device.container_edits, spec: self.specs.len() - 1 });
        }
        Ok(())
    }

    /// The full names that a step's wishes mean, each once. What is not required may be absent.
    pub fn find(&self, wishes: &[DeviceWish]) -> Result<Vec<String>, CdiError> {
        let mut all: Vec<String> = Vec::new();
        for wish in wishes {
            let found = self.named(&wish.name);
            if found.is_empty() && wish.required {
                return Err(CdiError::NotRegistered { name: wish.name.clone() });
            }
            for name in found {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        Ok(all)
    }

    fn named(&self, wish: &str) -> Vec<String> {
        let (kind, name) = wish.split_once('=').unwrap_or((wish, ""));
        let of_kind = || self.known.keys().filter(|known| known.split_once('=').is_some_and(|(own, _)| own == kind)).cloned();
        let found: Vec<String> = match name {
            _ if !kind.contains('/') => Vec::new(),
            "" => of_kind().take(1).collect(),
            "*" => of_kind().collect(),
            _ => self.known.keys().filter(|known| *known == wish).cloned().collect(),
        };
        if !found.is_empty() {
            return found;
        }
        let has_class = |device: &Device| device.annotations.get(CLASS).is_some_and(|class| class == wish);
        self.known.iter().filter(|(_, device)| has_class(device)).map(|(name, _)| name.clone()).collect()
    }

    /// Refuses wishes that nobody granted.
    pub fn check(&self, wishes: &[DeviceWish], allowed: &AllowedDevices) -> Result<(), CdiError> {
        let wanted = self.find(wishes)?;
        let AllowedDevices::Named(granted) = allowed else { return Ok(()) };
        let granted: BTreeSet<String> = granted.iter().flat_map(|name| self.named(name)).collect();
        let is_open = |name: &String| {
            let annotation = self.known.get(name).and_then(|device| device.annotations.get(ALLOWED));
            annotation.is_some_and(|text| matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
        };
        let names: Vec<String> = wanted.into_iter().filter(|name| !granted.contains(name) && !is_open(name)).collect();
        if names.is_empty() { Ok(()) } else { Err(CdiError::NotAllowed { names }) }
    }

    /// What the wished devices add to a step: of each file first what all its devices have.
    pub fn edits(&self, wishes: &[DeviceWish]) -> Result<Vec<&Edits>, CdiError> {
        let (mut specs, mut own) = (BTreeMap::new(), Vec::new());
        for name in self.find(wishes)? {
            let device = &self.known[&name];
            let shared = &self.specs[device.spec];
            for edits in [shared, &device.edits] {
                let other = edits.others.iter().find(|(_, value)| !is_empty(value));
                if let Some((what, _)) = other {
                    return Err(CdiError::Unsupported { name, what: what.clone() });
                }
            }
            specs.insert(device.spec, shared);
            own.push(&device.edits);
        }
        Ok(specs.into_values().chain(own).collect())
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(specs: &[&str]) -> Devices {
        let dir = tempfile::tempdir().unwrap();
        for (number, spec) in specs.iter().enumerate() {
            fs::write(dir.path().join(format!("{number}.json")), spec).unwrap();
        }
        Devices::read(&[dir.path().to_owned(), dir.path().join("absent")]).unwrap()
    }

    const CAMERAS: &str = r#"{"cdiVersion": "0.6.0", "kind": "acme.com/camera", "annotations": {"org.mobyproject.buildkit.device.class": "eye"},
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [
            {"name": "b", "containerEdits": {"env": ["B=1"], "deviceNodes": [{"path": "/dev/b", "hostPath": "/dev/null"}]}},
            {"name": "a", "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"}, "containerEdits": {"env": ["A=1"]}}
        ]}"#;

    fn wish(name: &str, required: bool) -> DeviceWish {
        DeviceWish { name: name.into(), required }
    }

    #[test]
    fn names_mean_what_they_mean_to_buildkit() {
        let devices = devices(&[CAMERAS]);
        for (name, found) in [
            ("acme.com/camera", &["acme.com/camera=a"][..]),
            ("acme.com/camera=*", &["acme.com/camera=a", "acme.com/camera=b"]),
            ("acme.com/camera=b", &["acme.com/camera=b"]),
            ("eye", &["acme.com/camera=a", "acme.com/camera=b"]),
            ("acme.com/camera=c", &[]),
            ("ear", &[]),
        ] {
            assert_eq!(devices.find(&[wish(name, false)]).unwrap(), found, "{name}");
            assert_eq!(devices.find(&[wish(name, true)]).is_err(), found.is_empty(), "{name}");
        }
        let error = devices.find(&[wish("ear", true)]).unwrap_err();
        assert_eq!(error.to_string(), "required device \"ear\" is not registered");
    }

    #[test]
    fn what_nobody_granted_is_refused() {
        let devices = devices(&[CAMERAS]);
        let named = |names: &[&str]| AllowedDevices::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let check = |name: &str, allowed| devices.check(&[wish(name, true)], &allowed).map_err(|error| error.to_string());
        assert_eq!(check("acme.com/camera=a", named(&[])), Ok(()));
        assert_eq!(
            check("acme.com/camera=b", named(&[])),
            Err("device acme.com/camera=b is requested by the build but not allowed".into())
        );
        for allowed in [AllowedDevices::All, named(&["eye"]), named(&["acme.com/camera=*"]), named(&["acme.com/camera=b"])] {
            assert_eq!(check("acme.com/camera=b", allowed), Ok(()));
        }
    }

    #[test]
    fn edits_of_all_devices_of_a_file_come_once_and_first() {
        let devices = devices(&[CAMERAS]);
        let edits = devices.edits(&[wish("acme.com/camera=*", true)]).unwrap();
        let env: Vec<&str> = edits.iter().flat_map(|edits| &edits.env).map(String::as_str).collect();
        assert_eq!(env, ["ALL=1", "A=1", "B=1"]);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let yaml = "---\ncdiVersion: 0.5.0\nkind: acme.com/gpu\ncontainerEdits:\n  env: [VISIBLE=void]\n  additionalGIDs: [44]\ndevices:\n\
            - name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/gpu0\n      hostPath: /dev/null\n    hooks: []\n    \
            mounts:\n    - {hostPath: /usr/lib/libgpu.so, containerPath: /usr/lib/libgpu.so, options: [ro, bind]}\n";
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gpu.yaml"), yaml).unwrap();
        let devices = Devices::read(&[dir.path().to_owned()]).unwrap();
        let edits = devices.edits(&[wish("acme.com/gpu=0", true)]).unwrap();
        assert_eq!((edits[0].env.as_slice(), edits[0].additional_gids.as_slice()), (&["VISIBLE=void".to_owned()][..], &[44][..]));
        assert_eq!(edits[1].device_nodes, [DeviceNode { path: "/dev/gpu0".into(), host_path: "/dev/null".into() }]);
        assert_eq!(edits[1].mounts[0].options, ["ro", "bind"]);
        fs::write(dir.path().join("bad.yml"), "kind: [").unwrap();
        let error = Devices::read(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("invalid device specification ") && error.contains("bad.yml"), "{error}");
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_name() {
        let hooked =
            r#"{"kind": "a/b", "devices": [{"name": "x", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/x"}]}}]}"#;
        let error = devices(&[hooked]).edits(&[wish("a/b=x", true)]).unwrap_err();
        assert_eq!(error.to_string(), "the device a/b=x asks for hooks, which is not supported yet");
    }
}
