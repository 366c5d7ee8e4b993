//! `shale version`.

use serde_json::json;

use super::template::{self, TemplateError};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The text of `shale version`. The shape of `docker version`'s data is kept: `{{.Server.Version}}` is used to see whether Docker lives.
pub fn render(format: Option<&str>) -> Result<String, TemplateError> {
    let part = json!({"Version": VERSION, "Os": "linux", "Arch": crate::oci::platform::Platform::native().architecture});
    let data = json!({"Client": part, "Server": part});
    match format {
        None => Ok(format!("shale version {VERSION}\n")),
        Some("json") => Ok(format!("{data}\n")),
        Some(format) => template::render(format, &data).map(|text| text + "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_find_a_version() {
        for (format, text) in [(None, format!("shale version {VERSION}\n")), (Some("{{.Server.Version}}"), format!("{VERSION}\n"))] {
            assert_eq!(render(format), Ok(text));
        }
    }
}
