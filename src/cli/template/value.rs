//! What a template is filled with: values that know, as Go's do, what an absent list or map would be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A value of a template. `None` in a list or map is Go's nil: it prints as an empty one and is `null` as JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing at all: a key that a map does not have.
    #[default]
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Option<Vec<Value>>),
    /// A map; keys that are absent are no mistake.
    Map(Option<BTreeMap<String, Value>>),
    /// A record; a field that it does not have is a mistake.
    Struct(Struct),
}

/// A record with named fields, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Struct {
    /// Go's name of the type, for messages; empty where Docker reads the answer as a plain map.
    pub type_name: &'static str,
    /// The fields.
    pub fields: Vec<Field>,
    /// Whether its JSON writes `<`, `>` and `&` as `\u003c` and so on, as Docker's lists do.
    pub escapes_html: bool,
}

/// One field of a [`Struct`].
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name in templates.
    pub name: &'static str,
    /// Its key in JSON.
    pub key: &'static str,
    /// What it holds.
    pub value: Value,
    /// Whether JSON leaves it out when it is empty.
    pub omits_empty: bool,
}

impl Struct {
    /// A record whose fields have the same name in templates and JSON.
    pub fn new(type_name: &'static str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let field = |(name, value)| Field { name, key: name, value, omits_empty: false };
        Self { type_name, fields: fields.into_iter().map(field).collect(), escapes_html: false }
    }

    /// Lets JSON leave out these fields when they are empty.
    #[must_use]
    pub fn omitting(mut self, names: &[&str]) -> Self {
        for field in &mut self.fields {
            field.omits_empty |= names.contains(&field.name);
        }
        self
    }

    /// Gives a field another key in JSON.
    #[must_use]
    pub fn renamed(mut self, name: &str, key: &'static str) -> Self {
        for field in self.fields.iter_mut().filter(|field| field.name == name) {
            field.key = key;
        }
        self
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(Some(texts.into_iter().map(Self::text).collect()))
    }

    /// Go's truth: false, 0 and whatever is empty are false.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => list.as_ref().is_some_and(|list| !list.is_empty()),
            Self::Map(map) => map.as_ref().is_some_and(|map| !map.is_empty()),
            Self::Struct(_) => true,
        }
    }

    /// Go's name for its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
            Self::Struct(record) if record.type_name.is_empty() => "map[string]interface {}",
            Self::Struct(record) => record.type_name,
        }
    }

    /// What a map of such values gives for a key that it does not have.
    #[must_use]
    pub fn zero(&self) -> Self {
        match self {
            Self::Nil | Self::Struct(_) => Self::Nil,
            Self::Bool(_) => Self::Bool(false),
            Self::Int(_) => Self::Int(0),
            Self::Float(_) => Self::Float(0.0),
            Self::Text(_) => Self::Text(String::new()),
            Self::List(_) => Self::List(None),
            Self::Map(_) => Self::Map(None),
        }
    }

    /// As Go's `%v` prints it.
    pub fn shown(&self) -> String {
        match self {
            Self::Nil => "<nil>".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => format!("[{}]", joined(list.iter().flatten().map(Self::shown))),
            Self::Map(map) => format!("map[{}]", joined(map.iter().flatten().map(|(key, value)| format!("{key}:{}", value.shown())))),
            Self::Struct(record) if record.type_name.is_empty() => {
                let mut pairs: Vec<String> = record.fields.iter().map(|field| format!("{}:{}", field.key, field.value.shown())).collect();
                pairs.sort();
                format!("map[{}]", pairs.join(" "))
            }
            Self::Struct(record) => format!("{{{}}}", joined(record.fields.iter().map(|field| field.value.shown()))),
        }
    }

    /// As `{{json .}}` prints it.
    pub fn json(&self) -> String {
        let text = serde_json::to_string(self).expect("values have text keys and finite numbers");
        if !matches!(self, Self::Struct(record) if record.escapes_html) {
            return text;
        }
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '<' | '>' | '&' => write!(escaped, "\\u{:04x}", u32::from(c)).expect("a String takes everything"),
                c => escaped.push(c),
            }
        }
        escaped
    }

    /// Whether JSON with "omitempty" leaves it out.
    fn is_omitted(&self) -> bool {
        !matches!(self, Self::Struct(_)) && !self.is_true()
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" ")
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil | Self::List(None) | Self::Map(None) => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(Some(list)) => list.serialize(serializer),
            Self::Map(Some(map)) => map.serialize(serializer),
            Self::Struct(record) => {
                let mut map = serializer.serialize_map(None)?;
                for field in record.fields.iter().filter(|field| !(field.omits_empty && field.value.is_omitted())) {
                    map.serialize_entry(field.key, &field.value)?;
                }
                map.end()
            }
        }
    }
}

/// JSON as a template sees it that knows nothing of types: objects are maps.
impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or_default()),
            },
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(list) => Self::List(Some(list.into_iter().map(Self::from).collect())),
            serde_json::Value::Object(map) => Self::Map(Some(map.into_iter().map(|(key, value)| (key, Self::from(value))).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_json_in_its_order_without_what_is_empty() {
        let record = Struct::new("", [("Z", Value::Int(1)), ("A", Value::text("")), ("L", Value::List(None))]).omitting(&["A"]);
        assert_eq!(Value::Struct(record).json(), r#"{"Z":1,"L":null}"#);
        let row = Struct { escapes_html: true, ..Struct::new("x", [("Tag", Value::text("<none>"))]) };
        assert_eq!(Value::Struct(row).json(), r#"{"Tag":"\u003cnone\u003e"}"#);
    }

    #[test]
    fn values_print_as_in_go() {
        let map = Value::from(serde_json::json!({"b": [1, "x"], "a": null, "c": {}}));
        assert_eq!(map.shown(), "map[a:<nil> b:[1 x] c:map[]]");
        assert_eq!(Value::Struct(Struct::new("T", [("A", Value::Int(1)), ("B", Value::text("b"))])).shown(), "{1 b}");
    }
}
