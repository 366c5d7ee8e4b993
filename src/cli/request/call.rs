//! `--call`: a question about the Dockerfile in place of a build.

use super::RequestError;
use crate::cli::args::BuildArgs;
use crate::cli::flags::parse_bool;
use crate::dockerfile::flags::csv_fields;

/// What is asked, and how the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub method: Method,
    /// As JSON, not as text.
    pub json: bool,
    /// The exit code does not tell of violations.
    pub ignore_status: bool,
}

/// The questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Which rules of the language are violated.
    Check,
    /// What the target takes.
    Outline,
    /// Which stages there are.
    Targets,
    /// Which questions there are.
    Describe,
}

/// The question of a command line; nothing for a build. `--check` is `--call=check`, `--print` is how `--call` was named first.
pub(super) fn call(args: &BuildArgs) -> Result<Option<Call>, RequestError> {
    let text = match (&args.call, &args.print) {
        _ if args.check => "check",
        (_, Some(text)) | (Some(text), None) => text,
        (None, None) => return Ok(None),
    };
    parse(text)
}

/// Reads `name[,format=json][,ignorestatus=true]`.
fn parse(text: &str) -> Result<Option<Call>, RequestError> {
    let wrong = |reason: String| RequestError::Call { text: text.into(), reason };
    let (mut name, mut json, mut ignore_status) = (None, false, false);
    for field in csv_fields(text).map_err(|error| wrong(error.to_string()))? {
        match field.split_once('=') {
            Some(("format", format)) => json = format == "json",
            Some(("ignorestatus", value)) => {
                ignore_status = parse_bool(value).map_err(|_| wrong(format!("invalid ignorestatus print value: {value}")))?;
            }
            Some(_) => return Err(wrong(format!("invalid print field: {field}"))),
            None if name.is_some() => return Err(wrong(format!("invalid print value: {text}"))),
            None => name = Some(field),
        }
    }
    let method = match name.as_deref().unwrap_or_default() {
        "" | "build" => return Ok(None),
        "check" | "lint" => Method::Check,
        "outline" => Method::Outline,
        "targets" => Method::Targets,
        "subrequests.describe" => Method::Describe,
        other => return Err(RequestError::UnknownCall { name: other.into() }),
    };
    Ok(Some(Call { method, json, ignore_status }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spelled_as_buildx_spells_them() {
        let plain = |method| Some(Call { method, json: false, ignore_status: false });
        for (text, expected) in [
            ("", None),
            ("build", None),
            ("build,format=json", None),
            ("check", plain(Method::Check)),
            ("lint", plain(Method::Check)),
            ("outline", plain(Method::Outline)),
            ("targets,format=text", plain(Method::Targets)),
            ("subrequests.describe", plain(Method::Describe)),
            ("format=json,check,ignorestatus=1", Some(Call { method: Method::Check, json: true, ignore_status: true })),
            ("\"targets\",\"format=json\"", Some(Call { method: Method::Targets, json: true, ignore_status: false })),
        ] {
            assert_eq!(parse(text).expect(text), expected, "{text}");
        }
        for (text, sentence) in [
            ("check,outline", "invalid print value: check,outline"),
            ("check,colour=no", "invalid print field: colour=no"),
            ("check,ignorestatus=perhaps", "invalid ignorestatus print value: perhaps"),
            ("\"check", "parse error on line 1, column 7: extraneous or missing \" in quoted-field"),
            ("chekc", "unsupported request frontend.chekc"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
