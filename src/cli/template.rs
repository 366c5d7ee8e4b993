//! The part of Go's templates that people pass to `--format`: fields, `json`, `len`, `index`, `join`, `range`.

use serde_json::Value;

/// A template that cannot be read or does not fit its data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("template parsing error: unclosed action in {text:?}")]
    Unclosed {
        /// The template.
        text: String,
    },
    /// `range` without `end`, or the reverse.
    #[error("template parsing error: range and end do not match in {text:?}")]
    Unbalanced {
        /// The template.
        text: String,
    },
    /// Something of Go's language that is not here.
    #[error("template parsing error: {{{{{action}}}}} is not supported: known are fields, json, len, index, join and range")]
    Unsupported {
        /// What stands between the braces.
        action: String,
    },
    /// A function on a value that it does not take.
    #[error("template error in {{{{{action}}}}}: {reason}")]
    Execution {
        /// What stands between the braces.
        action: String,
        /// Why not.
        reason: String,
    },
}

/// Fills a template with a value.
pub fn render(template: &str, data: &Value) -> Result<String, TemplateError> {
    let parts = split(template)?;
    let mut out = String::new();
    run(&parts, data, &mut out, template)?;
    Ok(out)
}

/// A piece of a template.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Text(&'a str),
    Action(&'a str),
}

fn split(template: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = template;
    let mut trim_next = false;
    while let Some(open) = rest.find("{{") {
        let close = rest[open..].find("}}").map(|n| open + n).ok_or_else(|| TemplateError::Unclosed { text: template.into() })?;
        let action = &rest[open + 2..close];
        let (trim_before, action) = action.strip_prefix("- ").map_or((false, action), |action| (true, action));
        let (trim_after, action) = action.strip_suffix(" -").map_or((false, action), |action| (true, action));
        parts.push(Part::Text(trimmed(&rest[..open], trim_next, trim_before)));
        parts.push(Part::Action(action.trim()));
        trim_next = trim_after;
        rest = &rest[close + 2..];
    }
    parts.push(Part::Text(trimmed(rest, trim_next, false)));
    Ok(parts)
}

fn trimmed(text: &str, start: bool, end: bool) -> &str {
    let text = if start { text.trim_start() } else { text };
    if end { text.trim_end() } else { text }
}

/// Runs parts in order.
fn run(mut parts: &[Part<'_>], data: &Value, out: &mut String, template: &str) -> Result<(), TemplateError> {
    while let Some((part, rest)) = parts.split_first() {
        parts = rest;
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Action("end") => return Err(TemplateError::Unbalanced { text: template.into() }),
            Part::Action(action) => match range_of(action) {
                None => out.push_str(&go_text(&evaluate(action, data)?)),
                Some(of) => {
                    let end = end_of(parts).ok_or_else(|| TemplateError::Unbalanced { text: template.into() })?;
                    for element in elements(evaluate(of, data)?) {
                        run(&parts[..end], &element, out, template)?;
                    }
                    parts = &parts[end + 1..];
                }
            },
        }
    }
    Ok(())
}

/// What `range` goes over, if the action is one.
fn range_of(action: &str) -> Option<&str> {
    action.strip_prefix("range").filter(|rest| rest.starts_with([' ', '.'])).map(str::trim)
}

/// Where the `end` of a body stands.
fn end_of(body: &[Part<'_>]) -> Option<usize> {
    let mut depth = 0;
    body.iter().position(|part| match part {
        Part::Action("end") if depth == 0 => true,
        Part::Action("end") => {
            depth -= 1;
            false
        }
        Part::Action(action) => {
            depth += usize::from(range_of(action).is_some());
            false
        }
        Part::Text(_) => false,
    })
}

fn elements(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements,
        Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
        _ => vec![],
    }
}

/// The value of what stands between the braces.
fn evaluate(action: &str, data: &Value) -> Result<Value, TemplateError> {
    let unsupported = || TemplateError::Unsupported { action: action.into() };
    let failed = |reason: &str| TemplateError::Execution { action: action.into(), reason: reason.into() };
    let words = words(action).ok_or_else(unsupported)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [path] if path.starts_with('.') => Ok(field(path, data)),
        ["json", path] if path.starts_with('.') => {
            let json = serde_json::to_string(&field(path, data)).map_err(|e| failed(&e.to_string()))?;
            Ok(Value::String(json))
        }
        ["len", path] if path.starts_with('.') => match field(path, data) {
            Value::Array(list) => Ok(list.len().into()),
            Value::Object(map) => Ok(map.len().into()),
            Value::String(text) => Ok(text.len().into()),
            Value::Null => Ok(0.into()),
            _ => Err(failed("it has no length")),
        },
        ["index", path, ref keys @ ..] if path.starts_with('.') => keys.iter().try_fold(field(path, data), |value, key| match value {
            Value::Array(list) => {
                let n: usize = key.parse().map_err(|_| failed("the index of a list is a number"))?;
                list.get(n).cloned().ok_or_else(|| failed(&format!("index out of range: {n}")))
            }
            Value::Object(map) => Ok(map.get(unquote(key)).cloned().unwrap_or_default()),
            _ => Err(failed("it has no elements")),
        }),
        ["join", path, separator] if path.starts_with('.') => match field(path, data) {
            Value::Array(list) => Ok(Value::String(list.iter().map(go_text).collect::<Vec<_>>().join(unquote(separator)))),
            Value::Null => Ok(Value::String(String::new())),
            _ => Err(failed("it is no list")),
        },
        _ => Err(unsupported()),
    }
}

/// Words at blanks; a quoted one keeps its quotes and its blanks.
fn words(action: &str) -> Option<Vec<String>> {
    let mut words = vec![];
    let mut word = String::new();
    let mut quoted = false;
    for c in action.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            c if c.is_whitespace() && !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    (!quoted && !words.is_empty()).then_some(words)
}

fn unquote(word: &str) -> &str {
    word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word)
}

/// `.A.B`; what does not exist is null.
fn field(path: &str, data: &Value) -> Value {
    let mut value = data;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        value = value.get(name).unwrap_or(&Value::Null);
    }
    value.clone()
}

/// A value as Go prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pipelines_ask_for() {
        let data = serde_json::json!({
            "Id": "sha256:ab", "RepoTags": ["a:1", "b:2"], "Size": 12,
            "Config": {"Env": ["A=1"], "Labels": {"z": "1", "org.x/y": "2"}, "Cmd": null},
        });
        for (template, text) in [
            (".", "."),
            ("", ""),
            ("{{.Id}}", "sha256:ab"),
            ("{{ .Id }}/{{.Size}}", "sha256:ab/12"),
            ("{{json .Config.Env}}", "[\"A=1\"]"),
            ("{{json .}}", &data.to_string()),
            ("{{.RepoTags}}", "[a:1 b:2]"),
            ("{{.Config.Labels}}", "map[org.x/y:2 z:1]"),
            ("{{index .Config.Labels \"org.x/y\"}}", "2"),
            ("{{index .RepoTags 1}}", "b:2"),
            ("{{len .RepoTags}}", "2"),
            ("{{join .RepoTags \", \"}}", "a:1, b:2"),
            ("{{range .RepoTags}}<{{.}}>{{end}}!", "<a:1><b:2>!"),
            ("{{range.Mounts}}x{{end}}", ""),
            ("a  {{- .Size -}}  b", "a12b"),
            ("{{.Nope.Deeper}}", "<no value>"),
            ("{{json .Config.Cmd}}", "null"),
        ] {
            assert_eq!(render(template, &data).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let data = serde_json::json!({"A": [1], "B": true});
        for (template, start) in [
            ("{{.A", "template parsing error: unclosed action"),
            ("{{if .A}}x{{end}}", "template parsing error: {{if .A}} is not supported"),
            ("{{.A | json}}", "template parsing error: {{.A | json}} is not supported"),
            ("{{}}", "template parsing error: {{}} is not supported"),
            ("{{range .A}}x", "template parsing error: range and end do not match"),
            ("x{{end}}", "template parsing error: range and end do not match"),
            ("{{index .A 3}}", "template error in {{index .A 3}}: index out of range: 3"),
            ("{{len .B}}", "template error in {{len .B}}: it has no length"),
        ] {
            let error = render(template, &data).unwrap_err().to_string();
            assert!(error.starts_with(start), "{template}: {error}");
        }
    }
}
