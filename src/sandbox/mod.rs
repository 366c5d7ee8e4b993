//! One isolated process: what a RUN gets to see, and how it is stopped.
//!
//! `ids` and `ladder` run in the main process; `handler` in a fork of the worker, `child` (with `mounts`, `overlay`, `seccomp`) in
//! the process that becomes the command. Every failure crosses process boundaries as a [`Failure`].

mod attach;
pub mod cancel;
pub(crate) mod child;
pub(crate) mod exec;
mod failure;
pub(crate) mod handler;
pub(crate) mod handover;
pub mod ids;
pub mod ladder;
mod mounts;
mod overlay;
pub(crate) mod seccomp;
mod seccomp_table;
mod spec;
pub(crate) mod standby;
mod stop;
mod stub;
pub mod sys;
mod targets;

pub use cancel::Cancel;
pub(crate) use failure::Deed;
pub use failure::{Failure, SandboxError};
pub(crate) use overlay::overlay_failed;
pub use spec::{Exit, LowerLayer, MountOwner, MountSource, RunRequest, StepMount, Ulimit};
