//! `printf` of templates: the verbs of Go's `fmt` that make sense for texts, numbers and lists.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use super::value::Value;
use crate::dockerfile::word::quote;

/// `%-10.3s` without its verb.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    left: bool,
    zeros: bool,
    plus: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Fills a format. What does not fit is named in the text, as Go does it.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut next = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+0# ".contains(*c)) {
            match flag {
                '-' => spec.left = true,
                '+' => spec.plus = true,
                '0' => spec.zeros = true,
                '#' => spec.sharp = true,
                _ => {}
            }
        }
        spec.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match next.next() {
                None => put(&mut out, format_args!("%!{verb}(MISSING)")),
                Some(value) => out.push_str(&padded(&formatted(verb, value, spec), spec, value)),
            },
        }
    }
    let extra: Vec<String> = next.map(|value| format!("{}={}", value.type_name(), value.shown())).collect();
    if !extra.is_empty() {
        put(&mut out, format_args!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

fn number(chars: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    digits.parse().ok()
}

fn padded(text: &str, spec: Spec, value: &Value) -> String {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    let is_number = matches!(value, Value::Int(_) | Value::Float(_));
    match (spec.left, spec.zeros && is_number) {
        (true, _) => format!("{text}{}", " ".repeat(missing)),
        (false, true) => match text.strip_prefix(['-', '+']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], "0".repeat(missing)),
            None => format!("{}{text}", "0".repeat(missing)),
        },
        (false, false) => format!("{}{text}", " ".repeat(missing)),
    }
}

fn formatted(verb: char, value: &Value, spec: Spec) -> String {
    let cut = |text: &str| text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect::<String>();
    let plus = |text: String| if spec.plus && !text.starts_with('-') { format!("+{text}") } else { text };
    match (verb, value) {
        ('v', Value::Int(_) | Value::Float(_)) => plus(value.shown()),
        ('v', Value::Text(text)) if spec.sharp => quote(text),
        ('v', _) => value.shown(),
        ('T', _) => value.type_name().into(),
        ('t', Value::Bool(value)) => value.to_string(),
        ('s', Value::Text(text)) => cut(text),
        ('q', Value::Text(text)) => quote(text),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('d', Value::Int(number)) => plus(number.to_string()),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('X', Value::Int(number)) => format!("{number:X}"),
        ('o', Value::Int(number)) => format!("{number:o}"),
        ('b', Value::Int(number)) => format!("{number:b}"),
        ('c', Value::Int(number)) => u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).into(),
        ('f' | 'F', Value::Float(number)) => plus(format!("{number:.*}", spec.precision.unwrap_or(6))),
        ('g' | 'e', Value::Float(number)) => plus(number.to_string()),
        ('s' | 'q' | 'd', Value::List(list)) => {
            let parts: Vec<String> = list.iter().flatten().map(|value| formatted(verb, value, spec)).collect();
            format!("[{}]", parts.join(" "))
        }
        ('s' | 'q' | 'd', Value::Map(map)) => {
            let part = |(key, value): (&String, &Value)| {
                let key = if verb == 'q' { quote(key) } else { key.clone() };
                format!("{key}:{}", formatted(verb, value, spec))
            };
            format!("map[{}]", map.iter().flatten().map(part).collect::<Vec<_>>().join(" "))
        }
        (verb, Value::Nil) => format!("%!{verb}(<nil>)"),
        (verb, value) => format!("%!{verb}({}={})", value.type_name(), value.shown()),
    }
}
