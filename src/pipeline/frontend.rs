//! `# syntax=`: which frontend a Dockerfile asks for, and whether it is the one that is built in.

use super::{BuildError, Services};
use crate::cli::request::BuildRequest;
use crate::dockerfile::frontend::{self, Frontend, LANGUAGE};
use crate::plan::graph::Warning;
use crate::solve::event::Event;
use crate::span::SourceFile;

/// Refuses other frontends by name; a newer language than the one that is known is worth a remark.
pub(super) fn check(request: &BuildRequest, source: &SourceFile, services: Services<'_>) -> Result<(), BuildError> {
    let given = request.build_args.get("BUILDKIT_SYNTAX").and_then(|text| text.split_whitespace().next());
    let (name, span) = match (given, frontend::asked_for(source)) {
        (Some(given), _) => (given.to_owned(), None),
        (None, Some(asked)) => (asked.node, Some(asked.span)),
        (None, None) => return Ok(()),
    };
    match frontend::judge(&name) {
        Frontend::Known => Ok(()),
        Frontend::Newer => {
            let (major, minor) = LANGUAGE;
            let text =
                format!("[Warning] {name} is newer than the language that is known, {major}.{minor}: the Dockerfile is read as that");
            let warnings = vec![Warning { rule: "UnknownLanguage", text, span }];
            services.reporter.report(Event::Warnings { source: source.clone(), warnings });
            Ok(())
        }
        Frontend::Other => Err(BuildError::Frontend { name, at: span.map(|span| (source.clone(), span)) }),
    }
}
