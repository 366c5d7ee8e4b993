//! Why a step ran: the first difference between its key's parts and those of the last run of the same step.

use std::fmt;

use shale_cache::{KeyParts, KeyValue as Value};

/// Why no record fitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// The step was asked to ignore the cache.
    NoCache,
    /// No run of this step is on record.
    NeverBuilt,
    /// This part differs from the last run's.
    Changed {
        /// The part's name.
        part: String,
        /// Its value then, `None` if it had none.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
    },
    /// Every part is the same: the record or its layer was removed.
    Evicted,
}

/// Compares the parts of the last run with those of now; pure.
pub fn between(last: Option<&KeyParts>, now: &KeyParts) -> MissReason {
    let Some(last) = last else { return MissReason::NeverBuilt };
    let names = now.parts().iter().chain(last.parts()).map(|(name, _)| name.as_str());
    // The parent is first in every key and differs whenever an earlier step does: name it only if nothing else differs.
    let (parents, others): (Vec<&str>, Vec<&str>) = names.partition(|name| *name == "parent");
    for name in others.into_iter().chain(parents) {
        let (before, after) = (last.get(name), now.get(name));
        if before != after {
            return MissReason::Changed { part: name.to_owned(), before: before.map(text), after: after.map(text) };
        }
    }
    MissReason::Evicted
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::List(id) => id.to_string(),
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => write!(f, "the cache was not asked"),
            Self::NeverBuilt => write!(f, "never built here"),
            Self::Evicted => write!(f, "its record was evicted"),
            Self::Changed { part, .. } if part == "parent" => write!(f, "the filesystem below it changed"),
            Self::Changed { part, .. } if part == "files" => write!(f, "files changed"),
            Self::Changed { part, before: Some(before), after: Some(after) } => {
                write!(f, "{part}: {} → {}", short(before), short(after))
            }
            Self::Changed { part, before: None, .. } => write!(f, "{part} is new"),
            Self::Changed { part, .. } => write!(f, "{part} is gone"),
        }
    }
}

/// A value cut to what fits a line.
fn short(text: &str) -> String {
    const LIMIT_CHARS: usize = 60;
    if text.chars().count() <= LIMIT_CHARS { text.to_owned() } else { format!("{}…", text.chars().take(LIMIT_CHARS).collect::<String>()) }
}
