//! The functions of templates: Go's own and those that Docker adds.

use std::cmp::Ordering;

use super::value::Value;
use super::verb;

/// Every function; `and` and `or` are carried out by `run`, which need not look at all arguments.
const NAMES: &[&str] = &[
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad", "print", "printf", "println",
    "slice", "split", "title", "truncate", "upper",
];

/// How a function is called.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// Whether the heads of a table are written: functions that change words leave them as they are.
    pub(super) is_heads: bool,
    /// Whether `json` writes several lines.
    pub(super) indents_json: bool,
}

/// Whether there is such a function.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function; the error is Go's sentence about it.
pub(super) fn call(name: &str, arguments: &[Value], context: Context) -> Result<Value, String> {
    if context.is_heads && matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate") {
        return Ok(arguments.first().cloned().unwrap_or_default());
    }
    match (name, arguments) {
        ("json", [value]) if context.indents_json => {
            Ok(Value::Text(serde_json::to_string_pretty(value).expect("values have text keys and finite numbers")))
        }
        ("json", [value]) => Ok(Value::Text(value.json())),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("len", [value]) => length(value).map(|n| Value::Int(n as i64)),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| element(&value, key)),
        ("slice", [value, places @ ..]) if places.len() <= 2 => part(value, places),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let mut is_one = false;
            for other in others {
                is_one |= are_equal(first, other)?;
            }
            Ok(Value::Bool(is_one))
        }
        ("ne", [a, b]) => are_equal(a, b).map(|equal| Value::Bool(!equal)),
        ("lt", [a, b]) => compare(a, b).map(|order| Value::Bool(order == Ordering::Less)),
        ("le", [a, b]) => compare(a, b).map(|order| Value::Bool(order != Ordering::Greater)),
        ("gt", [a, b]) => compare(a, b).map(|order| Value::Bool(order == Ordering::Greater)),
        ("ge", [a, b]) => compare(a, b).map(|order| Value::Bool(order != Ordering::Less)),
        ("print", all) => Ok(Value::Text(printed(all))),
        ("println", all) => Ok(Value::Text(all.iter().map(Value::shown).collect::<Vec<_>>().join(" ") + "\n")),
        ("printf", [format, all @ ..]) => Ok(Value::Text(verb::printf(text_of(format, name)?, all))),
        ("lower", [text]) => Ok(Value::Text(text_of(text, name)?.to_lowercase())),
        ("upper", [text]) => Ok(Value::Text(text_of(text, name)?.to_uppercase())),
        ("title", [text]) => Ok(Value::Text(title(text_of(text, name)?))),
        ("split", [text, separator]) => Ok(split(text_of(text, name)?, text_of(separator, name)?)),
        ("join", [list, separator]) => join(list, text_of(separator, name)?),
        ("pad", [text, before, after]) => {
            let blanks = |n: &Value| Ok::<_, String>(" ".repeat(number_of(n, name)?));
            let text = text_of(text, name)?;
            Ok(Value::Text(if text.is_empty() { String::new() } else { format!("{}{text}{}", blanks(before)?, blanks(after)?) }))
        }
        ("truncate", [text, length]) => {
            let (text, length) = (text_of(text, name)?, number_of(length, name)?);
            Ok(Value::Text(text.char_indices().take_while(|(n, c)| n + c.len_utf8() <= length).map(|(_, c)| c).collect()))
        }
        (name, all) => Err(format!("wrong number of args for {name}: got {}", all.len())),
    }
}

fn text_of<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("wrong type for value; expected string; got {} (in a call of {name})", other.type_name())),
    }
}

fn number_of(value: &Value, name: &str) -> Result<usize, String> {
    match value {
        Value::Int(number) => usize::try_from(*number).map_err(|_| format!("error calling {name}: index out of range: {number}")),
        other => Err(format!("expected integer; found {}", other.shown())),
    }
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Text(text) => Ok(text.len()),
        Value::List(list) => Ok(list.as_ref().map_or(0, Vec::len)),
        Value::Map(map) => Ok(map.as_ref().map_or(0, std::collections::BTreeMap::len)),
        Value::Struct(record) if record.type_name.is_empty() => Ok(record.fields.len()),
        Value::Nil => Err("error calling len: len of nil pointer".into()),
        other => Err(format!("error calling len: len of type {}", other.type_name())),
    }
}

fn element(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(list), Value::Int(n)) => {
            let found = usize::try_from(*n).ok().and_then(|n| list.as_ref()?.get(n));
            found.cloned().ok_or_else(|| format!("error calling index: index out of range: {n}"))
        }
        (Value::Text(text), Value::Int(n)) => {
            let found = usize::try_from(*n).ok().and_then(|n| text.as_bytes().get(n));
            found.map(|byte| Value::Int(i64::from(*byte))).ok_or_else(|| format!("error calling index: index out of range: {n}"))
        }
        // A map of texts, as labels are, has the empty text for a key that it lacks.
        (Value::Map(None), Value::Text(_)) => Ok(Value::text("")),
        (Value::Map(Some(map)), Value::Text(key)) => {
            Ok(map.get(key).cloned().unwrap_or_else(|| map.values().next().map_or_else(|| Value::text(""), Value::zero)))
        }
        (Value::Struct(record), Value::Text(key)) if record.type_name.is_empty() => Ok(record.get(key).cloned().unwrap_or_default()),
        (Value::Nil, _) => Err("error calling index: index of untyped nil".into()),
        (Value::List(_) | Value::Text(_), key) => {
            Err(format!("error calling index: cannot index slice/array with type {}", key.type_name()))
        }
        (Value::Map(_), key) => Err(format!("error calling index: value has type {}; should be string", key.type_name())),
        (value, _) => Err(format!("error calling index: can't index item of type {}", value.type_name())),
    }
}

fn part(value: &Value, places: &[Value]) -> Result<Value, String> {
    let range = |length: usize| {
        let place = |n: usize, default: usize| places.get(n).map_or(Ok(default), |place| number_of(place, "slice"));
        let (from, to) = (place(0, 0)?, place(1, length)?);
        if from > to || to > length {
            return Err(format!("error calling slice: index out of range: {}", from.max(to)));
        }
        Ok(from..to)
    };
    match value {
        Value::Text(text) => {
            let bytes = &text.as_bytes()[range(text.len())?];
            Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
        }
        Value::List(list) => {
            let list = list.as_deref().unwrap_or_default();
            Ok(Value::List(Some(list[range(list.len())?].to_vec())))
        }
        other => Err(format!("error calling slice: can't slice item of type {}", other.type_name())),
    }
}

fn are_equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b).is_eq()),
        // Against nil everything can be asked.
        (Value::Nil, other) | (other, Value::Nil) => Ok(matches!(other, Value::Nil | Value::List(None) | Value::Map(None))),
        (Value::List(_) | Value::Map(_) | Value::Struct(_), _) | (_, Value::List(_) | Value::Map(_) | Value::Struct(_)) => {
            Err("error calling eq: non-comparable types for comparison".into())
        }
        _ => Err("error calling eq: incompatible types for comparison".into()),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b)),
        _ => Err("error calling lt: incompatible types for comparison".into()),
    }
}

/// Blanks stand between operands when neither is a text.
fn printed(all: &[Value]) -> String {
    let mut out = String::new();
    for (n, value) in all.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if n > 0 && !is_text(value) && !is_text(&all[n - 1]) {
            out.push(' ');
        }
        out.push_str(&value.shown());
    }
    out
}

/// Each word with a capital.
fn title(text: &str) -> String {
    let mut starts = true;
    let capital = |c: char| {
        let out = if starts { c.to_uppercase().collect::<String>() } else { c.to_string() };
        starts = !(c.is_alphanumeric() || c == '_' || c == '\'');
        out
    };
    text.chars().map(capital).collect()
}

fn split(text: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return Value::texts(text.chars());
    }
    Value::texts(text.split(separator))
}

fn join(list: &Value, separator: &str) -> Result<Value, String> {
    let parts: Vec<String> = match list {
        Value::Nil => vec![],
        Value::List(list) => list.iter().flatten().map(Value::shown).collect(),
        Value::Map(map) => {
            let mut parts: Vec<String> = map.iter().flat_map(|map| map.values()).map(Value::shown).collect();
            parts.sort();
            parts
        }
        other => return Err(format!("error calling join: expected slice, got {}", other.type_name())),
    };
    Ok(Value::Text(parts.join(separator)))
}
