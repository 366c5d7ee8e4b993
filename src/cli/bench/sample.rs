//! The built-in sample: a small project with dependencies and sources, for any base with a shell.

use std::fs;
use std::io;
use std::path::Path;

/// Source files.
const FILES: usize = 100;
/// Lines of each.
const LINES: usize = 40;

/// The file that is edited.
pub(super) const TOUCHED: &str = "src/50.txt";

/// Writes the context with its Dockerfile.
pub(super) fn write(dir: &Path, base: &str) -> io::Result<()> {
    fs::create_dir_all(dir.join("src"))?;
    for number in 0..FILES {
        let text: String = (0..LINES).map(|line| format!("line {line} of source {number}\n")).collect();
        fs::write(dir.join(format!("src/{number}.txt")), text)?;
    }
    let names: String = (0..FILES).map(|number| format!("library-{number}\n")).collect();
    fs::write(dir.join("dependencies.txt"), names)?;
    fs::write(dir.join("Dockerfile"), dockerfile(base))
}

fn dockerfile(base: &str) -> String {
    format!(
        "FROM {base}\nWORKDIR /app\n\
         RUN mkdir -p lib && for a in 0 1 2 3 4 5 6 7 8 9; do for b in 0 1 2 3 4 5 6 7 8 9; do echo \"tool $a$b\" >lib/tool-$a$b; done; done\n\
         COPY dependencies.txt ./\n\
         RUN while read -r name; do echo \"$name\" >\"lib/$name\"; done <dependencies.txt\n\
         COPY src src\n\
         RUN cat lib/* src/* >program && cat program program program program >program.debug\n\
         CMD [\"cat\", \"/app/program\"]\n"
    )
}
