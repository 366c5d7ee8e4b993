//! `shale inspect`: values → text.

use serde_json::Value;

use super::template::{self, TemplateError};

/// The text for what was found: a JSON list, or one line of the template each.
pub fn render(found: &[Value], format: Option<&str>) -> Result<String, TemplateError> {
    match format {
        None | Some("json") => Ok(json_text(found)),
        Some(format) => found.iter().map(|value| template::render(format, value).map(|line| line + "\n")).collect(),
    }
}

/// Indented by four, as Docker indents.
fn json_text(found: &[Value]) -> String {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
    serde::Serialize::serialize(found, &mut serializer).expect("values and a Vec cannot fail");
    bytes.push(b'\n');
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_format_it_is_docker_s_json() {
        assert_eq!(render(&[serde_json::json!({"Id": "a"})], None).unwrap(), "[\n    {\n        \"Id\": \"a\"\n    }\n]\n");
        assert_eq!(render(&[], None).unwrap(), "[]\n");
    }

    #[test]
    fn a_template_makes_a_line_per_image() {
        let found = [serde_json::json!({"Id": "a"}), serde_json::json!({"Id": "b"})];
        assert_eq!(render(&found, Some("{{.Id}}")).unwrap(), "a\nb\n");
        assert_eq!(render(&found[..1], Some(".")).unwrap(), ".\n");
    }
}
