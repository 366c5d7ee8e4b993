//! `RUN --device`: what the devices of the machine add to a step.

use super::StepError;
use crate::plan::graph::DeviceWish;
use crate::sandbox::{MountSource, RunRequest, StepMount};
use crate::source::cdi::{DeviceMount, Devices, Edits};

/// Adds device nodes, mounts, variables and groups to a step.
pub(super) fn add(devices: &Devices, wishes: &[DeviceWish], request: &mut RunRequest) -> Result<(), StepError> {
    for edits in devices.edits(wishes)? {
        apply(edits, request)?;
    }
    Ok(())
}

fn apply(edits: &Edits, request: &mut RunRequest) -> Result<(), StepError> {
    for variable in &edits.env {
        let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
        request.env.retain(|set| set.split_once('=').is_none_or(|(set, _)| set != name));
        request.env.push(variable.clone());
    }
    for node in &edits.device_nodes {
        let path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        let source = MountSource::Machine { path: path.into(), devices: true, programs: false };
        std::fs::metadata(path).map_err(StepError::io("find the device", path))?;
        request.mounts.push(StepMount { target: node.path.clone(), is_file: true, writable: true, source });
    }
    for mount in &edits.mounts {
        request.mounts.push(step_mount(mount)?);
    }
    for group in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !request.groups.contains(group) {
            request.groups.push(*group);
        }
    }
    Ok(())
}

fn step_mount(mount: &DeviceMount) -> Result<StepMount, StepError> {
    let has = |option: &str| mount.options.iter().any(|own| own == option);
    let meta = std::fs::metadata(&mount.host_path).map_err(StepError::io("find the file of a device", &mount.host_path))?;
    let source = MountSource::Machine { path: (&mount.host_path).into(), devices: !has("nodev"), programs: !has("noexec") };
    Ok(StepMount { target: mount.container_path.clone(), is_file: !meta.is_dir(), writable: !has("ro"), source })
}
