//! SIGINT, SIGTERM and SIGHUP: the first asks the build to stop, the second insists, the third is final.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

/// Watches for signals as long as it lives. The handlers stay installed after that: a process that was asked to stop is on its way out.
#[derive(Debug)]
pub struct Watch {
    caught: Arc<AtomicI32>,
    handle: Handle,
}

impl Watch {
    /// Starts to watch. `on_signal` is called from another thread for the first and the second signal.
    pub fn start(on_signal: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let caught = Arc::new(AtomicI32::new(0));
        let first = Arc::clone(&caught);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count >= 2 {
                    // Whatever still runs had two chances. This ends the process; the kernel ends its children with it.
                    drop(emulate_default_handler(signal));
                }
                // Only the first one names the exit code.
                first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).ok();
                on_signal();
            }
        })?;
        Ok(Self { caught, handle })
    }

    /// The first signal that came.
    pub fn caught(&self) -> Option<i32> {
        Some(self.caught.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
    }
}
