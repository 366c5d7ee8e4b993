//! Lines with tabs → aligned columns, as Docker's tables are.
//!
//! The rules are those of Go's `text/tabwriter`: a cell ends with a tab, what stands behind the last tab of a line belongs to no
//! column, and a column goes on only as long as the lines that follow each other have it.

/// How wide columns are.
#[derive(Clone, Copy, Debug)]
pub struct Widths {
    /// The least width of a column with its padding.
    pub least: usize,
    /// Blanks behind the longest cell.
    pub padding: usize,
}

/// Of lists: `docker images`, `docker ps`.
pub const LIST: Widths = Widths { least: 10, padding: 3 };

/// Of `docker version`.
pub const FACTS: Widths = Widths { least: 20, padding: 1 };

/// Replaces the tabs of a text by blanks.
pub fn aligned(text: &str, widths: Widths) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut blocks = Blocks { lines: &lines, widths, stack: Vec::new(), out: String::new() };
    blocks.block(0, lines.len());
    // Every line was ended; the text may not end with one.
    blocks.out.pop();
    blocks.out
}

struct Blocks<'a> {
    lines: &'a [Vec<&'a str>],
    widths: Widths,
    /// Of the columns that the lines at hand all have.
    stack: Vec<usize>,
    out: String,
}

impl Blocks<'_> {
    /// Writes some lines, whose first columns are known.
    fn block(&mut self, from: usize, to: usize) {
        let column = self.stack.len();
        let has_column = |line: usize| column + 1 < self.lines[line].len();
        let mut at = from;
        let mut written = from;
        let mut runs = Vec::new();
        while at < to {
            if !has_column(at) {
                at += 1;
                continue;
            }
            let end = (at..to).find(|line| !has_column(*line)).unwrap_or(to);
            runs.push((at, end));
            at = end;
        }
        for (start, end) in runs {
            self.lines_as_they_are(written, start);
            let longest = self.lines[start..end].iter().map(|line| width(line[column]) + self.widths.padding).max().unwrap_or(0);
            self.stack.push(longest.max(self.widths.least));
            self.block(start, end);
            self.stack.pop();
            written = end;
        }
        self.lines_as_they_are(written, to);
    }

    fn lines_as_they_are(&mut self, from: usize, to: usize) {
        for line in &self.lines[from..to] {
            for (n, cell) in line.iter().enumerate() {
                self.out.push_str(cell);
                let missing = self.stack.get(n).map_or(0, |width_of| width_of.saturating_sub(width(cell)));
                self.out.extend(std::iter::repeat_n(' ', missing));
            }
            self.out.push('\n');
        }
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_as_docker_prints_them() {
        let text = "REPOSITORY\tTAG\tSIZE\napp\tlatest\t4.21MB\nlocalhost:5000/x\tv1\t\n";
        let lines = ["REPOSITORY         TAG       SIZE", "app                latest    4.21MB", "localhost:5000/x   v1        ", ""];
        assert_eq!(aligned(text, LIST), lines.join("\n"));
    }

    #[test]
    fn a_column_ends_where_a_line_lacks_it() {
        let text = "Client:\n Version:\t1\n API version:\t2\n\nServer:\n Engine:\n  Version:\t3\n";
        let lines = ["Client:", " Version:           1", " API version:       2", "", "Server:", " Engine:", "  Version:          3", ""];
        assert_eq!(aligned(text, FACTS), lines.join("\n"));
        assert_eq!(aligned("a-very-long-cell-indeed\tx\n\nshort\ty", LIST), "a-very-long-cell-indeed   x\n\nshort     y");
    }
}
