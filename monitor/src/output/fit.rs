//! Text fitted to a terminal. What is not printed on one is not cut.

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Columns.
    pub(crate) width: usize,
    /// Lines.
    pub(crate) height: usize,
}

impl Fit {
    /// A pipe or a file.
    pub(crate) const UNBOUNDED: Self = Self {
        width: usize::MAX,
        height: usize::MAX,
    };
}

/// Characters on the terminal, as far as they are one column wide each.
pub(crate) fn width_of(text: &str) -> usize {
    text.chars().count()
}

/// The text, or its start and an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 {
        kept
    } else {
        format!("{}…", kept.trim_end())
    }
}

/// Lines of whole words, as wide as that at most unless a word is wider.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let is_first = line.is_empty();
        if !is_first && width_of(&line) + 1 + width_of(word) > width {
            lines.push(std::mem::take(&mut line));
        } else if !is_first {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// The first lines; the last of them shows that there were more.
pub(crate) fn shortened(mut lines: Vec<String>, most: usize, width: usize) -> Vec<String> {
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            *last = cut(&format!("{last} …"), width);
        }
    }
    lines
}

/// Makes a table as wide as that, as far as its columns may be cut: the widest of them first. A column
/// without an entry in `narrowest` stays as it is. False where it is still wider.
pub(crate) fn fit_columns(rows: &mut [Vec<String>], narrowest: &[usize], width: usize) -> bool {
    loop {
        let of_column = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| width_of(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len))
            .map(of_column)
            .collect();
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        if total <= width {
            return true;
        }
        let columns = widths.iter().zip(narrowest).enumerate();
        let widest = columns
            .filter(|(_, (width, narrowest))| width > narrowest)
            .max_by_key(|(_, (width, _))| **width);
        let Some((column, (widest, _))) = widest else {
            return false;
        };
        let narrower = widest - 1;
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(column)) {
            *cell = cut(cell, narrower);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_only_where_there_is_no_room() {
        assert_eq!(cut("äbcdef", 6), "äbcdef");
        assert_eq!(cut("äbcdef", 4), "äbc…");
        assert_eq!(cut("ab", 0), "");
        assert_eq!(wrap("a bc d", 4), ["a bc", "d"]);
        assert_eq!(wrap("a bc d", usize::MAX), ["a bc d"]);
        assert_eq!(wrap("longer x", 3), ["longer", "x"]);
        let lines = wrap("one two three", 5);
        assert_eq!(shortened(lines, 2, 5), ["one", "two …"]);
        assert_eq!(shortened(wrap("one", 5), 1, 5), ["one"]);
        assert_eq!(shortened(wrap("one", 5), 0, 5), [""; 0]);
    }
}
