//! JSON as those who wrote it read it: in Go `null` leaves a field as it is, and what has no entries is often written so.

use serde::de::DeserializeOwned;
use serde_json::{Error, Value};

/// Reads JSON. A key whose value is `null` counts as absent where it has to.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Err(error) };
    without_nulls(&mut value);
    // The first error has the place.
    serde_json::from_value(value).map_err(|_| error)
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_what_is_not_there() {
        #[derive(Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default)]
        struct Doc {
            names: Vec<String>,
            user: String,
            within: Option<Box<Self>>,
        }
        let read = |text: &str| read::<Doc>(text.as_bytes());
        let user = |user: &str| Doc { user: user.into(), ..Doc::default() };
        assert_eq!(read(r#"{"names":null,"user":"a"}"#).unwrap(), user("a"));
        assert_eq!(
            read(r#"{"user":null,"within":{"names":null,"user":"b"}}"#).unwrap(),
            Doc { within: Some(Box::new(user("b"))), ..user("") }
        );
        for (text, column) in [(r#"{"names":null,"user":1}"#, 13), (r#"{"names":null"#, 13)] {
            assert_eq!(read(text).unwrap_err().column(), column, "{text}");
        }
    }
}
