//! `--platform` of the commands over images of the store: it chooses among those that were built under one name, and an image of another
//! platform is an error, in Docker's words.

use std::borrow::Cow;

use super::Failure;
use super::diagnostic::Diagnostic;
use crate::image::ImageService;
use crate::oci::manifest::runs_on;
use crate::oci::platform::Platform;

/// Reads the flag. An empty one asks for nothing.
pub(super) fn wanted(text: Option<&str>) -> Result<Option<Platform>, Failure> {
    let platform = text.filter(|text| !text.is_empty()).map(str::parse).transpose();
    platform.map_err(|error| Diagnostic::new(format!("invalid platform: {error}")).into())
}

/// The image is there, and for other platforms.
pub(super) fn not_provided(image: &str, wanted: &Platform, offered: &[Platform]) -> Diagnostic {
    let text = format!("image with reference {image} was found but does not provide the specified platform ({wanted})");
    Diagnostic::new(text).hint(format!("it is for {}", offered.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")))
}

/// What to look for in the place of a name: the same, or the id of the image of the platform that was built with it. A name that nothing
/// has stays, for whoever looks for it tells that.
pub(super) fn variant<'a>(service: &ImageService, name: &'a str, wanted: Option<&Platform>) -> Result<Cow<'a, str>, Diagnostic> {
    let (Some(wanted), Ok(variants)) = (wanted, service.variants(name)) else { return Ok(name.into()) };
    match variants.iter().position(|(_, platform)| runs_on(platform, wanted)) {
        // The name's own image is the first.
        Some(0) => Ok(name.into()),
        Some(at) => Ok(variants[at].0.to_string().into()),
        None => Err(not_provided(name, wanted, &variants.into_iter().map(|(_, platform)| platform).collect::<Vec<_>>()).of_engine()),
    }
}
