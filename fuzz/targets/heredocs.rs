//! A command line with any heredoc words and any bodies: what is read as a body stands in the source as it is told, its variables can be
//! asked for, and a trigger reads the same text alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::dockerfile::ast::{Heredoc, InstructionKind};
use shale::dockerfile::word::expand_raw;
use shale::dockerfile::{parse, parse_trigger};
use shale::span::SourceFile;

fuzz_target!(|input: (u8, &str, &str)| {
    let (form, line, body) = input;
    let keyword = ["RUN", "COPY", "ADD", "ONBUILD RUN", "ONBUILD COPY"][usize::from(form % 5)];
    let source = SourceFile::new("Dockerfile", format!("FROM scratch\n{keyword} <<{line} /\n{body}"));
    let (tree, errors) = parse(&source);
    assert!(tree.is_some() || !errors.is_empty(), "neither a tree nor an error");
    for instruction in tree.iter().flat_map(|tree| &tree.stages).flat_map(|stage| &stage.instructions) {
        let heredocs: &[Heredoc] = match &instruction.kind {
            InstructionKind::Run(run) => &run.heredocs,
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) => &copy.heredocs,
            InstructionKind::Onbuild(onbuild) => {
                drop(parse_trigger(&SourceFile::new("ONBUILD", onbuild.text.as_str())));
                &[]
            }
            _ => &[],
        };
        for heredoc in heredocs {
            assert!(heredoc.raw.is_empty() || source.slice(heredoc.span) == heredoc.raw, "the body stands elsewhere");
            assert!(heredoc.content.len() <= heredoc.raw.len(), "more was read than is there");
            drop(expand_raw(&heredoc.content, &|name| (name.len() % 2 == 0).then(|| name.to_owned())));
        }
    }
});
