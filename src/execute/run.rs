//! RUN: the layers below unpacked, the command in the sandbox, its changes as a layer.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::place::Place;
use super::redact::Redactor;
use super::room::Lack;
use super::{BuildExecutor, StepError, device, emulator, former, marks, mounts};
use crate::oci::config::DEFAULT_PATH;
use crate::plan::graph::RunOp;
use crate::sandbox::{Exit, RunRequest, Ulimit};
use crate::solve::event::{Event, Stream};
use crate::solve::{Made, Step};
use crate::tree::accounts::ProcessUser;
use crate::tree::index::Index;
use crate::worker::{LowerLayer, RunDone, StepMount};

/// So much of the end of a command's output is looked through for why it failed.
const LAST_WORDS: usize = 4 << 10;
/// Runs the command of a RUN.
pub(super) fn run(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &RunOp, sources: mounts::Sources) -> Result<Made, StepError> {
    let map = executor.forms.map_id()?;
    let place = executor.forms.place(&map)?;
    // The last one of them leaves none behind for nobody.
    if executor.runs_left.fetch_sub(1, Ordering::Relaxed) > 1 {
        executor.ahead.make_place(map.clone());
    }
    emulator::check(&step.vertex.platform, place.path())?;
    let lowers = executor.forms.lowers(&step.parent)?;
    let user = executor.forms.process_user(&step.parent, &op.user)?;
    let mut ready = mounts::prepare(executor, step, op, sources, place.path())?;
    let wants_diff_id = executor.diff_ids && executor.exported[step.id.0];
    let (stubs, indexes) = (executor.forms.stubs()?, executor.forms.bundle());
    let request = request(op, (lowers, user), &mut ready);
    let mut request = RunRequest { tmp: place.path().to_owned(), upper: place.upper(), stubs, indexes, wants_diff_id, ..request };
    device::add(&executor.devices, &op.devices, &mut request)?;
    let redactor = Redactor::new(&ready.secrets);
    let mut redactors = [(Stream::Stdout, redactor.clone()), (Stream::Stderr, redactor)];
    let mut log = executor.logs.of_step(step.id.0);
    let (mut log_error, mut last_words) = (None, Vec::new());
    let mut show = |stream, bytes: Vec<u8>| {
        if bytes.is_empty() {
            return;
        }
        last_words.extend_from_slice(&bytes);
        last_words.drain(..last_words.len().saturating_sub(LAST_WORDS));
        if let Err(error) = log.write(&bytes) {
            log_error.get_or_insert(error);
        }
        executor.reporter.report(Event::Output { task: step.task, stream, bytes });
    };
    let done = executor.forms.worker()?.run(
        request,
        &mut |stream, bytes| {
            let redactor = redactors.iter_mut().find(|(of, _)| *of == stream);
            show(stream, redactor.map_or_else(Vec::new, |(_, redactor)| redactor.pass(bytes)));
        },
        &executor.cancel,
    );
    for (stream, redactor) in &mut redactors {
        show(*stream, redactor.end());
    }
    let (absent, inputs) = (std::mem::take(&mut ready.absent), ready.inputs.take());
    let failed = |code| {
        let lack = Lack::of(executor.store.root(), &last_words);
        StepError::Exit { command: op.argv.join(" "), code, log: log.path(), lack, absent }
    };
    // Locks of caches go before the rest is tidied up.
    drop(ready);
    let done = done.map_err(StepError::from).and_then(|done| match done.exit {
        Exit::Code(0) => Ok(done),
        Exit::Code(code) => Err(failed(code)),
        Exit::Signal(signal) => Err(failed(128 + signal)),
        Exit::Cancelled => Err(StepError::Cancelled),
    });
    let made = match done {
        Ok(done) => {
            let made = keep(executor, step, op, done, place).inspect_err(|_| executor.forms.tidy());
            made.map(|made| Made { inputs, ..made })
        }
        Err(error) => {
            // What was not kept may be large, and the next step may need the room.
            executor.forms.remove(&place.close())?;
            Err(error)
        }
    };
    match log_error {
        Some(error) if made.is_ok() => Err(StepError::io("write the log", log.place())(error)),
        _ => made,
    }
}

/// Keeps what a command left as a layer.
fn keep(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &RunOp, done: RunDone, place: Place) -> Result<Made, StepError> {
    let index = Index::from_bytes(done.index)?;
    let content = index.content_id(Some(done.window));
    marks::tell(executor, step, &index);
    // Times of files that are mounted are nobody's to compare with.
    if op.mounts.is_empty()
        && let Some(layer) = former::layer(executor, step, &content, &index)
    {
        executor.forms.remove(&place.close())?;
        return Ok(Made { layer, content, inputs: None });
    }
    let layers = executor.store.layers();
    let (room, rest) = place.apart();
    let layer = layers.put_born(index.as_bytes(), room, done.diff_id.as_ref())?;
    if let Some(diff_id) = &done.diff_id {
        layers.set_by_diff(diff_id, &layer)?;
    }
    executor.forms.remember(layer, index);
    if op.mounts.is_empty() {
        // A few empty directories, whose deletion some file systems take their time for.
        rest.leave();
    } else {
        // What was written over a bind mount may be as large as anything.
        executor.ahead.delete(rest);
    }
    Ok(Made { layer, content, inputs: None })
}

fn request(op: &RunOp, (lowers, user): (Vec<LowerLayer>, ProcessUser), ready: &mut mounts::Ready) -> RunRequest {
    let mut env = environment(op, &user.home);
    for (name, value) in &ready.env {
        env.retain(|set| set.split_once('=').is_none_or(|(set, _)| set != name));
        env.push(format!("{name}={value}"));
    }
    RunRequest {
        lowers,
        indexes: None,
        tmp: PathBuf::new(),
        upper: PathBuf::new(),
        stubs: PathBuf::new(),
        wants_diff_id: false,
        argv: op.argv.clone(),
        env,
        cwd: op.workdir.clone(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        network: op.network,
        insecure: op.insecure,
        hostname: op.hostname.clone(),
        // As in BuildKit.
        hosts: format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", op.hostname),
        // A machine without the file has no name service: neither has the step.
        resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        add_hosts: op.add_hosts.clone(),
        shm_size_bytes: op.shm_size_bytes,
        ulimits: op.ulimits.iter().map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard }).collect(),
        mounts: visible(std::mem::take(&mut ready.mounts)),
        files: op.heredoc_files.iter().map(|file| (file.name.clone(), file.content.clone().into_bytes(), 0o755)).collect(),
    }
}

/// Of mounts at one target the last one: it hides the others, and where one is a file and one a directory they have no place in common.
fn visible(mounts: Vec<StepMount>) -> Vec<StepMount> {
    let later: Vec<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
    let is_last = |(at, mount): (usize, StepMount)| (!later[at + 1..].contains(&mount.target)).then_some(mount);
    mounts.into_iter().enumerate().filter_map(is_last).collect()
}

/// The process's environment: ENV in order, then ARGs, then proxies, each only where it says something new; PATH and HOME where
/// nobody set them.
fn environment(op: &RunOp, home: &str) -> Vec<String> {
    // For BuildKit a home that is set to nothing is none.
    let mut env: Vec<String> = op.env.iter().filter(|set| *set != "HOME=").cloned().collect();
    let more = op.args.iter().chain(&op.proxy_env).map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in more.chain([("PATH", DEFAULT_PATH), ("HOME", home)]) {
        let is_set = env.iter().any(|set| set.split_once('=').is_some_and(|(set, _)| set == name));
        if !is_set {
            env.push(format!("{name}={value}"));
        }
    }
    env
}
