//! Whole builds of the real binary: the layer cache (nothing changed, one file changed) and what a RUN step costs.
//!
//! Each row spawns the binary as a user does. Ratios between rows of one run mean something; seconds on a shared machine do not.
//! Floors (two virtual cores of Sapphire Rapids): an isolated process 3.8 ms with a worker's first mounts, 0.8 ms after; a mount of
//! 1, 60, 300 layers 0.25, 0.6, 2 ms.

#[path = "../tests/support/mod.rs"]
mod support;

use support::{Lab, Who};

fn main() {
    divan::main();
}

/// A lab with a busybox base and a context of 2,000 files with some steps; built once.
fn lab(runs: usize) -> Lab {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let steps: String = (0..runs).map(|n| format!("RUN echo {n} >/f{n}\n")).collect();
    lab.write("ctx/Dockerfile", format!("FROM busybox\nCOPY src/ /src/\n{steps}COPY one /one\n"));
    for number in 0..2_000 {
        lab.write(&format!("ctx/src/d{}/f{number}", number / 100), format!("{number}\n").repeat(50));
    }
    lab.write("ctx/one", "0\n");
    build(&lab, &[]);
    lab
}

fn build(lab: &Lab, args: &[&str]) {
    let mut all = vec!["build", "-q", "-t", "bench"];
    all.extend(args);
    all.push("ctx");
    let said = lab.run(&all);
    assert!(said.ok(), "{}", said.stderr);
}

/// Nothing changed: lookups alone.
#[divan::bench(args = [0, 10, 100], sample_count = 10)]
fn nothing_changed(bencher: divan::Bencher<'_, '_>, runs: usize) {
    let lab = lab(runs);
    bencher.bench_local(|| build(&lab, &[]));
}

/// One small file changed, in the last COPY.
#[divan::bench(sample_count = 10)]
fn one_file_changed(bencher: divan::Bencher<'_, '_>) {
    let lab = lab(10);
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        lab.write("ctx/one", format!("{number}\n"));
        build(&lab, &[]);
    });
}

/// One RUN on a base of so many layers, which are unpacked already: the mount, and what is looked at per layer.
#[divan::bench(args = [1, 60, 120, 300], sample_count = 5)]
fn run_on_layers(bencher: divan::Bencher<'_, '_>, layers: usize) {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let steps: String = (0..layers).map(|n| format!("COPY one /layer{n}\n")).collect();
    lab.write("ctx/one", "1\n");
    lab.write("ctx/Dockerfile", format!("FROM busybox\n{steps}"));
    build(&lab, &["-t", "high"]);
    lab.write("ctx/Dockerfile", "FROM high\nRUN echo >/x\n");
    build(&lab, &[]);
    bencher.bench_local(|| build(&lab, &["--no-cache"]));
}

/// Trivial RUN steps, none cached: the difference between the rows, by step, is what a step costs.
#[divan::bench(args = [1, 21], sample_count = 5)]
fn run_steps(bencher: divan::Bencher<'_, '_>, runs: usize) {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let steps: String = (0..runs).map(|n| format!("RUN echo {n} >/f{n}\n")).collect();
    lab.write("ctx/Dockerfile", format!("FROM busybox\n{steps}"));
    bencher.bench_local(|| build(&lab, &["--no-cache"]));
}
