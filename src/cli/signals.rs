//! SIGINT, SIGTERM and SIGHUP, unless they are ignored by inheritance: the first asks the build to stop, the second insists, the third is final.
//!
//! Commands get their grace. Everything else (hashing, packing, a registry that says nothing, a pipe that nobody reads) is not asked
//! at a hundred places whether it is still wanted: if the build is not over soon, it is given up as a whole.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use crate::sandbox::Cancel;
use crate::sandbox::sys::is_ignored;

/// How long a build without a running command may take to end in good order.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// The signals that are heeded. SIGHUP and SIGINT stay ignored if they were when the program was started: who started it so (`nohup`, a script
/// with `&`) sends them to others. SIGTERM is sent to one process on purpose and is always heeded, as by Docker's client.
pub(super) fn heeded() -> Vec<i32> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| *signal == SIGTERM || !is_ignored(*signal)).collect()
}

/// Watches for signals as long as it lives. The handlers stay installed after that: a process that was asked to stop is on its way out.
#[derive(Debug)]
pub struct Watch {
    state: Arc<State>,
    handle: Handle,
}

struct State {
    /// The first signal; only that one names the exit code.
    caught: AtomicI32,
    /// Gives up the build; gone when that has ended by itself. Locked while it does, so that the build does not end meanwhile.
    give_up: Mutex<Option<GiveUp>>,
}

type GiveUp = Box<dyn Fn(i32) + Send>;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("caught", &self.caught).finish_non_exhaustive()
    }
}

impl Watch {
    /// Starts to watch. `give_up` ends the process if the build does not; it gets the first signal.
    pub fn start(cancel: Cancel, give_up: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new(heeded())?;
        let handle = signals.handle();
        let state = Arc::new(State { caught: AtomicI32::new(0), give_up: Mutex::new(Some(Box::new(give_up))) });
        let shared = Arc::clone(&state);
        thread::Builder::new().name("signals".into()).spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count >= 2 {
                    // Whatever still runs had two chances. This ends the process; the kernel ends its children with it.
                    drop(emulate_default_handler(signal));
                }
                shared.caught.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).ok();
                cancel.cancel();
                if count == 0 {
                    let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
                    // Without it the next signal ends what does not end by itself.
                    drop(thread::Builder::new().spawn(move || shared.lose_patience(&cancel)));
                }
            }
        })?;
        Ok(Self { state, handle })
    }

    /// The build has ended by itself: it is not given up any more.
    pub fn is_over(&self) {
        self.state.give_up.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The first signal that came.
    pub fn caught(&self) -> Option<i32> {
        Some(self.state.caught.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

impl State {
    fn lose_patience(&self, cancel: &Cancel) {
        let mut idle_since = Instant::now();
        loop {
            thread::sleep(PAUSE);
            if cancel.running_steps() > 0 {
                idle_since = Instant::now();
            }
            let give_up = self.give_up.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(give_up) = give_up.as_ref() else { return };
            if idle_since.elapsed() >= PATIENCE {
                return give_up(self.caught.load(Ordering::SeqCst));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
    }
}
