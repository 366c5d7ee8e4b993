//! RUN in the sandbox: what a command sees, what it cannot do, how it is stopped.

mod sandbox_common;

use sandbox_common::Bench;
use shale::worker::Exit;

#[test]
fn exit_codes_signals_and_output() {
    let Some(bench) = Bench::new() else { return };
    let ran = bench.sh("echo out; echo err >&2; exit 3");
    assert_eq!((ran.exit, ran.stdout.as_str(), ran.stderr.as_str()), (Exit::Code(3), "out\n", "err\n"));
    assert_eq!(bench.sh("kill -9 $$; true").exit, Exit::Code(0), "PID 1 is immune to its own signals");
    assert_eq!(bench.request(&["true"]).argv.len(), 1);
    assert_eq!(bench.run(bench.request(&["true"])).exit, Exit::Code(0));
}
