//! Makes the text of other processes harmless in a terminal and in a log.

use std::fmt::{self, Write};

/// Text that shows every control character and every character that hides or reorders others as
/// `\xNN` or `\u{NNNN}`, and a backslash as two, so that nothing can pass for an escape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                _ if !is_harmful(c) => f.write_char(c)?,
                _ if c.is_ascii() => write!(f, "\\x{:02x}", u32::from(c))?,
                _ => write!(f, "\\u{{{:04x}}}", u32::from(c))?,
            }
        }
        Ok(())
    }
}

/// Whether a terminal could obey the character, or a reader overlook it: controls (C0, DEL, C1),
/// line separators, and the invisible format characters (Unicode category Cf, among them the
/// bidirectional overrides and the tags).
pub(super) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_are_shown_not_obeyed() {
        for (name, shown) in [
            ("nginx", "nginx"),
            ("Web Content", "Web Content"),
            ("größe", "größe"),
            ("\x1b[2J\x1b[31m", "\\x1b[2J\\x1b[31m"),
            ("a\nb\r\tc", "a\\x0ab\\x0d\\x09c"),
            ("\x7f", "\\x7f"),
            ("\u{9b}31m", "\\u{009b}31m"),
            ("abc\u{202e}fdp", "abc\\u{202e}fdp"),
            ("in\u{200b}it", "in\\u{200b}it"),
            ("\u{e0041}", "\\u{e0041}"),
            ("\\x1b", "\\\\x1b"),
        ] {
            assert_eq!(Escaped(name).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_harmful_comes_through(name in any::<String>()) {
            let shown = Escaped(&name).to_string();
            prop_assert!(!shown.contains(is_harmful), "{:?}", shown);
        }
    }
}
