//! `shale images`: images → rows → text, as `docker images` prints them.

use super::human;
use super::listing::Listing;
use super::template::{Struct, TemplateError, Value};
use crate::image::ImageSummary;
use crate::oci::reference::Reference;

/// One line of the list: an image under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Familiar name without tag; `None` for an image without a name.
    pub repository: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// `sha256:…` of the manifest in a registry, if known.
    pub digest: Option<String>,
    /// The image id, `sha256:…`.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created_secs: Option<i64>,
    /// What its layers take.
    pub size_bytes: u64,
}

/// How the list is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Ids only.
    pub quiet: bool,
    /// Whole ids.
    pub no_trunc: bool,
    /// A column for digests.
    pub digests: bool,
    /// `--format`
    pub format: Option<String>,
}

impl Style {
    /// Whether a line is needed for each digest of a name.
    fn needs_digests(&self) -> bool {
        self.digests || self.format.as_deref().is_some_and(|format| format.contains("{{.Digest}}"))
    }
}

const HEADS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const TABLE_WITH_DIGESTS: &str = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const RAW: &str = "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n";

/// An image as lines of the list: one per name, and one per repository that knows it by digest alone.
pub fn rows(image: &ImageSummary, style: &Style) -> Vec<Row> {
    let row = Row {
        repository: None,
        tag: None,
        digest: None,
        id: image.id.to_string(),
        created_secs: image.created_secs(),
        size_bytes: image.size_bytes,
    };
    if image.names.is_empty() && image.repo_digests.is_empty() {
        return vec![row];
    }
    let digests_of = |repository: &str| -> Vec<&str> {
        let of = |known: &str| known.strip_prefix(repository).and_then(|rest| rest.strip_prefix('@')).is_some();
        image.repo_digests.iter().filter(|known| of(known)).filter_map(|known| Some(known.split_once('@')?.1)).collect()
    };
    let mut rows = Vec::new();
    for name in &image.names {
        let named = Row { repository: Some(name.familiar_name()), tag: name.tag().map(Into::into), ..row.clone() };
        let digests = if style.needs_digests() { digests_of(&name.familiar_name()) } else { vec![] };
        rows.extend(digests.iter().map(|digest| Row { digest: Some((*digest).into()), ..named.clone() }));
        rows.extend(digests.is_empty().then_some(named));
    }
    let mut told: Vec<String> = image.names.iter().map(Reference::familiar_name).collect();
    for known in &image.repo_digests {
        let Some((repository, _)) = known.split_once('@').filter(|(repository, _)| !told.iter().any(|t| t == repository)) else { continue };
        let untagged = Row { repository: Some(repository.into()), ..row.clone() };
        if style.digests {
            rows.extend(digests_of(repository).iter().map(|digest| Row { digest: Some((*digest).into()), ..untagged.clone() }));
        } else {
            rows.push(untagged);
        }
        told.push(repository.into());
    }
    rows
}

/// The list as text. `now_secs` is the present, for "3 weeks ago".
pub fn render(rows: &[Row], style: &Style, now_secs: i64) -> Result<String, TemplateError> {
    let table = if style.digests { TABLE_WITH_DIGESTS } else { TABLE };
    let listing = Listing { heads: HEADS, table, quiet: "{{.ID}}", raw: Some(if style.quiet { "image_id: {{.ID}}" } else { RAW }) };
    let rows = rows.iter().map(|row| fields(row, style.no_trunc, now_secs)).collect();
    listing.render(rows, style.format.as_deref(), style.quiet)
}

fn fields(row: &Row, no_trunc: bool, now_secs: i64) -> Struct {
    let or_none = |text: &Option<String>| Value::text(text.as_deref().unwrap_or("<none>"));
    let id = if no_trunc { &row.id } else { human::short_id(&row.id) };
    let known = |text: Option<String>| Value::Text(text.unwrap_or_else(|| "N/A".into()));
    let size = human::short_bytes(row.size_bytes);
    Struct::new(
        "*formatter.imageContext",
        [
            ("Containers", Value::text("N/A")),
            ("CreatedAt", known(row.created_secs.and_then(human::moment))),
            ("CreatedSince", known(row.created_secs.map(|created| human::ago(created, now_secs)))),
            ("Digest", or_none(&row.digest)),
            ("ID", Value::text(id)),
            ("Repository", or_none(&row.repository)),
            ("SharedSize", Value::text("N/A")),
            ("Size", Value::text(&size)),
            ("Tag", or_none(&row.tag)),
            ("UniqueSize", Value::text("N/A")),
            ("VirtualSize", Value::Text(size)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;
    const DIGEST: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn summary(names: &[&str], repo_digests: &[&str]) -> ImageSummary {
        ImageSummary {
            id: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            names: names.iter().map(|name| Reference::parse(name).unwrap()).collect(),
            repo_digests: repo_digests.iter().map(|name| format!("{name}@{DIGEST}")).collect(),
            created: Some("2023-11-14T22:13:20.5Z".into()),
            size_bytes: 7,
            labels: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn an_image_is_a_line_per_name() {
        let shown = |image: &ImageSummary, digests: bool| -> Vec<(Option<String>, Option<String>, bool)> {
            let rows = rows(image, &Style { digests, ..Style::default() });
            rows.into_iter().map(|row| (row.repository, row.tag, row.digest.is_some())).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        let image = summary(&["app:1", "reg.example:5000/x/app:2"], &["app", "old"]);
        let (app, other) = ((some("app"), some("1")), (some("reg.example:5000/x/app"), some("2")));
        for digests in [false, true] {
            let expected =
                [(app.0.clone(), app.1.clone(), digests), (other.0.clone(), other.1.clone(), false), (some("old"), None, digests)];
            assert_eq!(shown(&image, digests), expected, "{digests}");
        }
        assert_eq!(shown(&summary(&[], &[]), true), [(None, None, false)]);
    }

    fn shown_rows() -> Vec<Row> {
        let id = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let named = Row {
            repository: Some("app".into()),
            tag: Some("latest".into()),
            digest: None,
            id: id.into(),
            created_secs: Some(NOW - 3 * 7 * 24 * 3600),
            size_bytes: 4_210_000,
        };
        vec![
            named.clone(),
            Row { repository: Some("localhost:5000/team/application".into()), tag: Some("v1".into()), ..named.clone() },
            Row { repository: None, tag: None, id: id.replace('0', "f"), created_secs: None, size_bytes: 0, ..named },
        ]
    }

    fn text(style: Style) -> String {
        render(&shown_rows(), &style, NOW).unwrap()
    }

    #[test]
    fn the_table_has_docker_s_columns() {
        insta::assert_snapshot!(text(Style::default()), @r"
        REPOSITORY                        TAG       IMAGE ID       CREATED       SIZE
        app                               latest    0123456789ab   3 weeks ago   4.21MB
        localhost:5000/team/application   v1        0123456789ab   3 weeks ago   4.21MB
        <none>                            <none>    f123456789ab   N/A           0B
        ");
    }

    #[test]
    fn quiet_prints_an_id_per_line_of_the_table() {
        assert_eq!(text(Style { quiet: true, ..Style::default() }), "0123456789ab\n0123456789ab\nf123456789ab\n");
        assert!(text(Style { quiet: true, no_trunc: true, ..Style::default() }).starts_with("sha256:0123456789abcdef0"));
    }

    #[test]
    fn formats() {
        let format = |format: &str| text(Style { format: Some(format.into()), ..Style::default() });
        assert!(format("{{.Repository}}:{{.Tag}}").starts_with("app:latest\nlocalhost:5000/team/application:v1\n"));
        assert!(format("table {{.ID}}\\t{{.Size}}").starts_with("IMAGE ID       SIZE\n0123456789ab   4.21MB\n"));
        assert_eq!(
            format("json").lines().last(),
            Some(concat!(
                r#"{"Containers":"N/A","CreatedAt":"N/A","CreatedSince":"N/A","Digest":"\u003cnone\u003e","ID":"f123456789ab","#,
                r#""Repository":"\u003cnone\u003e","SharedSize":"N/A","Size":"0B","Tag":"\u003cnone\u003e","UniqueSize":"N/A","VirtualSize":"0B"}"#
            ))
        );
        assert!(format("{{json .}}").contains("\"CreatedAt\":\"2023-10-24 22:13:20 +0000 UTC\""));
        let error = render(&shown_rows(), &Style { format: Some("{{.Bogus}}".into()), ..Style::default() }, NOW).unwrap_err().to_string();
        assert!(error.ends_with("can't evaluate field Bogus in type *formatter.imageContext"), "{error}");
    }
}
