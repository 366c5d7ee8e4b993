//! What pipelines write behind `--format`, and what Go answers to mistakes.

use super::*;

fn image() -> Value {
    let config = Struct::new(
        "",
        [
            ("Env", Value::texts(["A=1", "PATH=/bin"])),
            ("Cmd", Value::List(None)),
            ("Labels", Value::from(serde_json::json!({"z": "1", "org.x/y": "2"}))),
            ("ExposedPorts", Value::Map(None)),
        ],
    );
    let fields = [
        ("Id", Value::text("sha256:ab")),
        ("RepoTags", Value::texts(["a:1", "b:2"])),
        ("Size", Value::Int(12)),
        ("Config", Value::Struct(config.omitting(&["ExposedPorts"]))),
        ("Parent", Value::text("")),
    ];
    Value::Struct(Struct::new("", fields))
}

#[test]
fn what_pipelines_ask_for() {
    for (template, text) in [
        (".", "."),
        ("", ""),
        ("{{.Id}}", "sha256:ab"),
        ("{{ .Id }}/{{.Size}}", "sha256:ab/12"),
        ("{{json .Config.Env}}", r#"["A=1","PATH=/bin"]"#),
        ("{{.Config | json}}", r#"{"Env":["A=1","PATH=/bin"],"Cmd":null,"Labels":{"org.x/y":"2","z":"1"}}"#),
        ("{{.RepoTags}}", "[a:1 b:2]"),
        ("{{.Config.Labels}} {{.Config.Cmd}} {{.Config.ExposedPorts}}", "map[org.x/y:2 z:1] [] map[]"),
        (r#"{{index .Config.Labels "org.x/y"}}|{{index .Config.Labels "nope"}}"#, "2|"),
        ("{{.Config.Labels.nope}}", "<no value>"),
        ("{{index .RepoTags 1}}", "b:2"),
        ("{{len .RepoTags}} {{len .Config.Cmd}}", "2 0"),
        (r#"{{join .RepoTags ", "}}"#, "a:1, b:2"),
        ("{{range .RepoTags}}<{{.}}>{{end}}!", "<a:1><b:2>!"),
        ("{{range.RepoTags}}x{{end}}", "xx"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "org.x/y=2;z=1;"),
        ("{{range $i, $t := .RepoTags}}{{if $i}},{{end}}{{$t}}{{end}}", "a:1,b:2"),
        ("{{range $p := .RepoTags}}{{$p}}{{$.Size}} {{end}}", "a:112 b:212 "),
        ("{{range .RepoTags}}{{if eq . \"b:2\"}}{{continue}}{{end}}{{.}}{{end}}", "a:1"),
        ("{{range .RepoTags}}{{.}}{{break}}{{end}}", "a:1"),
        ("a  {{- .Size -}}  b", "a12b"),
        ("{{- /* nothing */ -}} x {{/* more */}}", "x "),
        ("{{if .Parent}}yes{{else if eq .Size 12}}twelve{{else}}no{{end}}", "twelve"),
        ("{{if and .Id (not .Parent)}}top{{end}}", "top"),
        ("{{or .Parent \"none\"}}", "none"),
        ("{{with .Config}}{{len .Env}}{{end}}{{with .Parent}}x{{else}}-{{end}}", "2-"),
        ("{{$id := .Id}}{{with .Config}}{{$id}}{{end}}", "sha256:ab"),
        ("{{$n := 1}}{{range .RepoTags}}{{$n = .}}{{end}}{{$n}}", "b:2"),
        ("{{printf \"%s|%5d|%-4s|%q|%v|%%|%05d\" .Id .Size \"x\" \"y\" .RepoTags 42}}", "sha256:ab|   12|x   |\"y\"|[a:1 b:2]|%|00042"),
        ("{{printf \"%s\"}} {{printf \"%d\" \"x\"}} {{printf \"a\" 1}}", "%!s(MISSING) %!d(string=x) a%!(EXTRA int64=1)"),
        ("{{.Id | printf \"<%s>\" | upper}}", "<SHA256:AB>"),
        ("{{index (split .Id \":\") 1}}", "ab"),
        ("{{(index .RepoTags 0) | title}}{{lower \"AB\"}}{{truncate .Id 6}}{{pad \"x\" 1 2}}", "A:1absha256 x  "),
        ("{{slice .Id 7}} {{slice .Id 0 3}}", "ab sha"),
        ("{{println .Size \"x\"}}{{print 1 2 \"a\" 3}}", "12 x\n1 2a3"),
        ("{{gt .Size 5}} {{le .Size 5}} {{ne .Id \"x\"}} {{eq .Size 1 12}}", "true false true true"),
        ("{{`raw \"x\"`}}{{\"\\ttab\"}}", "raw \"x\"\ttab"),
        (
            "{{.}}",
            "map[Config:map[Cmd:[] Env:[A=1 PATH=/bin] ExposedPorts:map[] Labels:map[org.x/y:2 z:1]] Id:sha256:ab Parent: RepoTags:[a:1 b:2] Size:12]",
        ),
    ] {
        assert_eq!(render(template, &image()).map_err(|e| e.to_string()).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn mistakes_are_named_as_go_names_them() {
    for (template, error) in [
        ("{{.Id", "template parsing error: template: :1: unclosed action"),
        ("{{}}", "template parsing error: template: :1: missing value for command"),
        ("a\n{{range .RepoTags}}x", "template parsing error: template: :2: unexpected EOF"),
        ("x{{end}}", "template parsing error: template: :1: unexpected {{end}}"),
        ("{{else}}", "template parsing error: template: :1: unexpected {{else}}"),
        ("{{nope .Id}}", "template parsing error: template: :1: function \"nope\" not defined"),
        ("{{$x}}", "template parsing error: template: :1: undefined variable \"$x\""),
        ("{{.Id}", "template parsing error: template: :1: unexpected \"}\" in command"),
        ("{{(.Id}}", "template parsing error: template: :1: unclosed left paren"),
        ("{{\"x}}", "template parsing error: template: :1: unterminated quoted string"),
        ("{{break}}", "template parsing error: template: :1: {{break}} outside {{range}}"),
        ("{{template \"x\"}}", "template parsing error: template: :1: {{template}} is not supported"),
        ("{{.Nope}}", "template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\""),
        (
            "{{.Id.Deeper}}",
            "template parsing error: template: :1:5: executing \"\" at <.Id.Deeper>: can't evaluate field Deeper in type string",
        ),
        (
            "x\n {{index .RepoTags 3}}",
            "template parsing error: template: :2:3: executing \"\" at <index .RepoTags 3>: error calling index: index out of range: 3",
        ),
        ("{{len .Size}}", "template parsing error: template: :1:2: executing \"\" at <len .Size>: error calling len: len of type int64"),
        (
            "{{range .Size.X}}{{end}}",
            "template parsing error: template: :1:13: executing \"\" at <.Size.X>: can't evaluate field X in type int64",
        ),
        (
            "{{.Id .Size}}",
            "template parsing error: template: :1:2: executing \"\" at <.Id>: Id has arguments but cannot be invoked as function",
        ),
    ] {
        assert_eq!(render(template, &image()).map_err(|e| e.to_string()), Err(error.to_owned()), "{template}");
    }
}

#[test]
fn heads_of_a_table_stay_whole() {
    let template = Template::parse("{{.ID | lower}}\t{{truncate .Tag 3}}\t{{json .Size}}\t{{.Nope}}").unwrap();
    assert_eq!(template.heads(&[("ID", "IMAGE ID"), ("Tag", "TAG"), ("Size", "SIZE")]), "IMAGE ID\tTAG\tSIZE\t<no value>");
}
