//! Label values: the text of other processes, made harmless and short. What the formats themselves
//! want escaped, the encoder escapes.

use crate::output::escape::is_harmful;

/// Characters of a value at most.
const LONGEST: usize = 128;

/// The text without what a terminal could obey or a reader overlook, and no longer than
/// [`LONGEST`]. Two texts can become the same.
pub(super) fn label(text: &str) -> String {
    let harmless = |c| {
        if is_harmful(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().take(LONGEST).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_keep_their_names() {
        for name in [
            "nginx.service",
            "system-fsck@dev-sd\\x2da.slice",
            "größe \"x\"",
            "",
        ] {
            assert_eq!(label(name), name);
        }
        assert_eq!(
            label("a\n\x1b[2Jb\u{202e}"),
            "a\u{fffd}\u{fffd}[2Jb\u{fffd}"
        );
    }

    proptest! {
        #[test]
        fn nothing_harmful_or_long_comes_through(text in any::<String>()) {
            let label = label(&text);
            prop_assert!(!label.contains(is_harmful));
            prop_assert!(label.chars().count() <= LONGEST);
        }
    }
}
