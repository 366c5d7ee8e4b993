//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use super::config::{Progress, RetryPolicy};
use super::error::RegistryError;
use super::http::http_date;

const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// Tries of a host that cannot be connected to: a wrong name must not cost a minute, a busy resolver deserves another try.
const CONNECT_ATTEMPTS: u32 = 3;

/// A failed try.
#[derive(Debug)]
pub(in crate::source) enum Fault {
    /// It may go better next time.
    Retry {
        /// What to say when it never does.
        error: RegistryError,
        /// `Retry-After`
        after: Option<Duration>,
        /// Whether there was no connection at all.
        connecting: bool,
    },
    /// It will not.
    Fatal(RegistryError),
}

impl Fault {
    /// Whether the server has said so, and not the way to it.
    pub(super) fn is_answer(&self) -> bool {
        let (Self::Retry { error, .. } | Self::Fatal(error)) = self;
        matches!(error, RegistryError::Status { .. } | RegistryError::RateLimited { .. } | RegistryError::Redirect { .. })
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Self::Fatal(error)
    }
}

/// The tries of one request.
pub(super) struct Attempts<'a> {
    policy: RetryPolicy,
    what: &'a str,
    progress: &'a dyn Progress,
    made: u32,
    waited: Duration,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: RetryPolicy, what: &'a str, progress: &'a dyn Progress) -> Self {
        Self { policy, what, progress, made: 0, waited: Duration::ZERO }
    }

    /// Forgets the failures: since the last one something has arrived.
    pub(super) fn reset(&mut self) {
        self.made = 0;
        self.waited = Duration::ZERO;
    }

    /// Waits for the next try, or says that there is none.
    pub(super) fn pause(&mut self, fault: Fault) -> Result<(), RegistryError> {
        let (error, after, connecting) = match fault {
            Fault::Fatal(error) => return Err(error),
            Fault::Retry { error, after, connecting } => (error, after, connecting),
        };
        self.made += 1;
        let error = with_attempts(error, self.made);
        let attempts = if connecting { CONNECT_ATTEMPTS.min(self.policy.attempts) } else { self.policy.attempts };
        if self.made >= attempts {
            return Err(error);
        }
        let delay = after.unwrap_or_else(|| jitter(self.policy.first_delay * 2_u32.saturating_pow(self.made - 1))).min(
            // A server's own figure is taken as it is: coming back earlier only prolongs the ban.
            after.unwrap_or(LONGEST_DELAY),
        );
        if self.waited.saturating_add(delay) > self.policy.budget {
            return Err(match (error, after) {
                (RegistryError::Status { url, status, .. }, Some(wait)) => {
                    RegistryError::RateLimited { host: host_of(&url).into(), status, wait }
                }
                (error, _) => error,
            });
        }
        self.waited += delay;
        self.progress.on_wait(self.what, &error.to_string(), delay);
        sleep(delay, self.progress)
    }
}

/// Runs a deed until it succeeds, fails for good or the patience ends.
pub(in crate::source) fn with_retry<T>(
    policy: RetryPolicy,
    what: &str,
    progress: &dyn Progress,
    mut deed: impl FnMut() -> Result<T, Fault>,
) -> Result<T, RegistryError> {
    let mut attempts = Attempts::new(policy, what, progress);
    loop {
        if progress.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        match deed() {
            Ok(value) => return Ok(value),
            Err(fault) => attempts.pause(fault)?,
        }
    }
}

fn with_attempts(error: RegistryError, made: u32) -> RegistryError {
    match error {
        RegistryError::Interrupted { url, detail, .. } => RegistryError::Interrupted { url, detail, attempts: made },
        other => other,
    }
}

fn host_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or(url)
}

/// Between three and five quarters of the delay, so that many builds do not come back at the same moment.
fn jitter(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 512;
    delay.mul_f64(0.75 + random as f64 / 1024.0)
}

fn sleep(delay: Duration, progress: &dyn Progress) -> Result<(), RegistryError> {
    let end = Instant::now() + delay;
    loop {
        if progress.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some((http_date(text)? - time::OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 21 Oct 2411 07:28:00 GMT").is_some_and(|d| d.as_secs() > 1 << 20));
        assert_eq!(retry_after("soon"), None);
    }
}
