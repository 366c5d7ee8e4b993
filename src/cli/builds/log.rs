//! What the steps of a build wrote → BuildKit's plain lines. When a line came is not on record.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use shale_cache::{BuildRecord, BuildStep, StepStatus};

use crate::cli::Failure;
use crate::cli::diagnostic::Diagnostic;
use crate::cli::human;

/// Gives the text of every step to `write`, line by line: a log may be larger than memory.
pub(super) fn render(record: &BuildRecord, dir: &Path, write: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    for (place, step) in record.steps.iter().enumerate() {
        let number = place + 1;
        write(format!("#{number} {}\n", step.name).as_bytes())?;
        let path = dir.join(format!("{}.log", step.number));
        let failed =
            |error: &io::Error| Failure::from(Diagnostic::new(format!("cannot read {}", path.display())).because(error.to_string()));
        match File::open(&path) {
            Ok(file) => lines(number, file, write).map_err(|end| match end {
                End::Read(error) => failed(&error),
                End::Write(failure) => failure,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error)),
        }
        write(format!("#{number} {}\n\n", ending(step)).as_bytes())?;
    }
    Ok(())
}

enum End {
    Read(io::Error),
    Write(Failure),
}

fn lines(number: usize, file: File, write: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), End> {
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(End::Read)? > 0 {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        let mut text = format!("#{number} ").into_bytes();
        text.append(&mut line);
        write(&text).map_err(End::Write)?;
    }
    Ok(())
}

fn ending(step: &BuildStep) -> String {
    match step.status {
        StepStatus::Hit | StepStatus::CutOffHit => "CACHED".to_owned(),
        StepStatus::Executed => format!("DONE {}", human::duration_ms(step.duration_ms)),
        StepStatus::Failed => format!("ERROR: {}", step.error.as_ref().unwrap_or(&step.reason).lines().next().unwrap_or_default()),
        StepStatus::Running => "...".to_owned(),
        StepStatus::Cancelled => "CANCELED".to_owned(),
    }
}
