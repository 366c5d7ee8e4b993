//! `--allow`: what steps and outputs get only when it is granted, as docker buildx reads it.

use std::path::{Component, Path, PathBuf};

use super::RequestError;
use crate::cli::environment::Environment;
use crate::cli::output::{Destination, Output, OutputError, OutputKind};
use crate::plan::{Allowed, AllowedDevices};

/// The grant that outputs with `mode=delete` need outside of the working directory.
const LOCAL_DELETE: &str = "buildx.local.delete";

/// What is known, for a message.
pub(super) const KNOWN: &str = "network.host, security.insecure, device[=NAME] and buildx.local.delete";

pub(super) fn allowed(given: &[String]) -> Result<Allowed, RequestError> {
    let mut allowed = Allowed::default();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let (name, value) = text.split_once('=').map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("network.host", None) => allowed.network_host = true,
            ("security.insecure", None) => allowed.insecure = true,
            (LOCAL_DELETE, None) => {}
            (LOCAL_DELETE, Some(_)) => return Err(RequestError::Allow(format!("{LOCAL_DELETE} does not accept a value"))),
            ("device", None | Some("")) => allowed.devices = AllowedDevices::All,
            ("device", Some(device)) => allow_device(&mut allowed.devices, device)?,
            _ => return Err(RequestError::Allow(format!("unknown entitlement {text}"))),
        }
    }
    Ok(allowed)
}

fn allow_device(devices: &mut AllowedDevices, text: &str) -> Result<(), RequestError> {
    let mut fields = text.split(',');
    let name = fields.next().unwrap_or_default().to_owned();
    if let Some(field) = fields.next() {
        return Err(RequestError::Allow(match field.split_once('=') {
            Some(("alias", _)) => format!("--allow device={text}: aliases of devices are not supported yet"),
            Some((key, _)) => format!("unknown device config key {key:?}"),
            None => format!("invalid device config {field:?}"),
        }));
    }
    if let AllowedDevices::Named(names) = devices {
        names.insert(name);
    }
    Ok(())
}

/// Refuses `mode=delete` where it could empty somebody's home: everywhere but below the working directory.
pub(super) fn check_deletions(outputs: &[Output], given: &[String], environment: &Environment) -> Result<(), RequestError> {
    if given.iter().any(|text| text == LOCAL_DELETE) {
        return Ok(());
    }
    for output in outputs.iter().filter(|output| output.kind == OutputKind::Local && output.mirror) {
        let Destination::Path(path) = &output.destination else { continue };
        let (place, below) = (resolved(path), resolved(&environment.current_dir));
        // Without a working directory nothing lies below it.
        if !below.is_absolute() || place == below || !place.starts_with(&below) {
            return Err(OutputError::Delete { destination: path.display().to_string() }.into());
        }
    }
    Ok(())
}

/// A path with the links of what exists of it followed, and without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut at = path.to_path_buf();
    let mut whole = loop {
        match (at.canonicalize(), at.file_name().map(ToOwned::to_owned)) {
            (Ok(found), _) => break found,
            (Err(_), Some(name)) => rest.push(name),
            (Err(_), None) => break at.clone(),
        }
        at.pop();
    };
    whole.extend(rest.into_iter().rev());
    whole.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(list: &[&str]) -> Result<Allowed, String> {
        allowed(&list.iter().map(ToString::to_string).collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn grants_are_read() {
        let both = grants(&["network.host", "security.insecure", "buildx.local.delete", ""]).unwrap();
        assert!(both.network_host && both.insecure);
        assert_eq!(both.devices, AllowedDevices::default());
        assert_eq!(grants(&["device=a/b=c", "device"]).unwrap().devices, AllowedDevices::All);
        assert_eq!(grants(&["device", "device=a/b=c"]).unwrap().devices, AllowedDevices::All);
        assert_eq!(grants(&["device=a/b=c"]).unwrap().devices, AllowedDevices::Named(["a/b=c".to_owned()].into()));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for (text, message) in [
            ("root", "unknown entitlement root"),
            ("security.insecure=yes", "unknown entitlement security.insecure=yes"),
            ("buildx.local.delete=1", "buildx.local.delete does not accept a value"),
            ("device=a/b,x", "invalid device config \"x\""),
            ("device=a/b,x=y", "unknown device config key \"x\""),
        ] {
            assert_eq!(grants(&[text]).unwrap_err(), message);
        }
    }
}
