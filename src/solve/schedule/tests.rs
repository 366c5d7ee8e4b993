//! What becomes of a build whose steps do not end as steps do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shale_cache::{LayerId, ListId, StoreError};

use super::super::Made;
use super::super::key::Inputs;
use super::*;
use crate::oci::platform::Platform;
use crate::plan::graph::WorkdirOp;

/// Panics in the step of `/panics`; the others run until they are cancelled.
#[derive(Default)]
struct Panics(AtomicBool);

impl Executor for Panics {
    type Selection = ();
    type Error = StoreError;

    fn select(&self, _step: &Step<'_>) -> Result<(Inputs, ()), StoreError> {
        Ok((Inputs::default(), ()))
    }

    fn complete(&self, _step: &Step<'_>, (): ()) -> Result<(), StoreError> {
        Ok(())
    }

    fn below(&self, _step: &Step<'_>, (): &()) -> Result<Option<ListId>, StoreError> {
        Ok(None)
    }

    fn execute(&self, step: &Step<'_>, (): ()) -> Result<Made, StoreError> {
        assert!(!matches!(&step.vertex.op, Op::Workdir(dir) if dir.path == "/panics"), "a defect");
        while !self.is_cancelled() {
            thread::yield_now();
        }
        Err(StoreError::WaitCancelled { path: "x".into() })
    }

    fn size_bytes(&self, _layer: &LayerId) -> u64 {
        0
    }

    fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Silent(AtomicUsize);

impl Reporter for Silent {
    fn report(&self, _event: Event) {}

    fn new_task(&self) -> TaskId {
        TaskId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn workdir(path: &str) -> Vertex {
    Vertex {
        op: Op::Workdir(WorkdirOp { path: path.into(), user: String::new(), created_secs: None }),
        parent: None,
        name: path.into(),
        source: None,
        stage: path.into(),
        ordinal: 0,
        secret_parts: std::collections::BTreeSet::default(),
        no_cache: None,
        platform: Platform::native(),
    }
}

#[test]
fn a_step_that_panics_ends_the_build_and_the_steps_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let graph = Graph { vertices: vec![workdir("/waits"), workdir("/panics")] };
    let (executor, ledger) = (Panics::default(), Ledger::default());
    let site = Site { context: "c".into(), dockerfile: "d".into() };
    let solver = Solver { graph: &graph, store: &store, bases: &[], executor: &executor, site, ledger: &ledger, explain: false };
    let solved = catch_unwind(AssertUnwindSafe(|| solver.solve(&[VertexId(0), VertexId(1)], &Silent::default())));
    let panic = solved.expect_err("it went on");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a defect"));
    assert!(executor.is_cancelled());
}
