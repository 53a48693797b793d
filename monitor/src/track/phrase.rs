//! Figures as people say them.

use std::fmt::{self, Write as _};
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A span of time, cut and not rounded, so that "at least" stays true of it: `850 ms`, `3.2 s`,
/// `2 min 11 s`, `12 min`, `2 h 5 min`, `3 d 4 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let (large, small, of_small) = match seconds {
            0 if millis == 0 && !self.0.is_zero() => return f.write_str("less than 1 ms"),
            0 if millis == 0 => return f.write_str("0 s"),
            0 => return write!(f, "{millis} ms"),
            1..MINUTE if millis < 100 => return write!(f, "{seconds} s"),
            1..MINUTE => return write!(f, "{seconds}.{} s", millis / 100),
            MINUTE..HOUR => ("min", "s", (seconds / MINUTE, seconds % MINUTE)),
            HOUR..DAY => ("h", "min", (seconds / HOUR, seconds % HOUR / MINUTE)),
            _ => ("d", "h", (seconds / DAY, seconds % DAY / HOUR)),
        };
        match of_small {
            (count, 0) => write!(f, "{count} {large}"),
            // Seconds say nothing beside ten minutes.
            (count, _) if small == "s" && count >= 10 => write!(f, "{count} {large}"),
            (count, rest) => write!(f, "{count} {large} {rest} {small}"),
        }
    }
}

/// A span in a text that is shown later: [`rendered`] then has it as it is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moving {
    /// An age.
    Grows(Duration),
    /// What a timer has left.
    Shrinks(Duration),
}

/// Around the nanoseconds of a [`Moving`]; private characters, which no text of ours has.
const GROWS: char = '\u{e000}';
const SHRINKS: char = '\u{e001}';
const END: char = '\u{e002}';

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grows(span) => write!(f, "{GROWS}{}{END}", span.as_nanos()),
            Self::Shrinks(span) => write!(f, "{SHRINKS}{}{END}", span.as_nanos()),
        }
    }
}

/// Text of another process without the characters that mark a [`Moving`].
pub(crate) fn unmarked(text: &str) -> String {
    text.replace([GROWS, SHRINKS, END], "?")
}

/// A text as it reads `later` than it was made.
pub(crate) fn rendered(template: &str, later: Duration) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, marked)) = rest.split_once([GROWS, SHRINKS]) {
        text.push_str(before);
        let grows = rest
            .get(before.len()..)
            .is_some_and(|at| at.starts_with(GROWS));
        let Some((nanos, after)) = marked.split_once(END) else {
            rest = marked;
            break;
        };
        let then = Duration::from_nanos(nanos.parse().unwrap_or(u64::MAX));
        let span = if grows {
            then.saturating_add(later)
        } else {
            then.saturating_sub(later)
        };
        let _ = write!(text, "{}", Span(span));
        rest = after;
    }
    text.push_str(rest);
    text
}

/// An amount of data, rounded down; 1 KB is 1000 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB")];
        match UNITS.into_iter().find(|(size, _)| self.0 >= *size) {
            None if self.0 == 1 => f.write_str("1 byte"),
            None => write!(f, "{} bytes", self.0),
            Some((size, unit)) if self.0 < 10 * size => {
                write!(
                    f,
                    "{}.{} {unit}",
                    self.0 / size,
                    self.0 % size / (size / 10)
                )
            }
            Some((size, unit)) => write!(f, "{} {unit}", self.0 / size),
        }
    }
}

/// A count with its thousands set apart: `28,104`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A change per second: `50.0`, `0.3`, `12,410`, and `0` for what rounds to it.
pub(crate) fn rate(per_second: f64) -> String {
    match Duration::try_from_secs_f64(per_second) {
        _ if per_second.abs() < 0.05 => "0".to_owned(),
        Ok(whole) if whole.as_secs() >= 1_000 => grouped(whole.as_secs()),
        _ => format!("{per_second:.1}"),
    }
}

/// The same with the sign of a growth: `+50.0`, `-0.3`, `0`.
pub(crate) fn signed_rate(per_second: f64) -> String {
    let rate = rate(per_second);
    if per_second > 0.0 && rate != "0" {
        format!("+{rate}")
    } else {
        rate
    }
}

/// A share of a whole, cut and not rounded, so that only the whole is 100 %: `0%`, `<0.1%`, `99.9%`,
/// `100%`.
pub(crate) fn percent(share: f64) -> String {
    // A share like 0.57 may be a little below itself.
    let tenths = (share.clamp(0.0, 1.0) * 1_000.0 + 1e-9).floor();
    if share <= 0.0 {
        "0%".to_owned()
    } else if tenths < 1.0 {
        "<0.1%".to_owned()
    } else if tenths >= 1_000.0 {
        "100%".to_owned()
    } else {
        format!("{:.1}%", tenths / 10.0)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sockets, ports and closes stay far below 2^53"
)]
pub(crate) const fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (28_104, "28,104"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(count), text);
        }
    }

    #[test]
    fn a_share_is_never_more_than_the_whole_nor_rounded_to_it() {
        for (share, text) in [
            (0.0, "0%"),
            (-0.0, "0%"),
            (0.000_9, "<0.1%"),
            (0.57, "57.0%"),
            (0.999_9, "99.9%"),
            (1.0, "100%"),
            (1.435, "100%"),
        ] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn a_rate_is_short() {
        assert_eq!(rate(50.0), "50.0");
        assert_eq!(rate(-0.25), "-0.2");
        for nothing in [0.0, -0.0, 0.049, -0.049] {
            assert_eq!(
                (rate(nothing), signed_rate(nothing)),
                ("0".into(), "0".into())
            );
        }
        assert_eq!(
            [0.3, -0.3, 12_410.7].map(signed_rate),
            ["+0.3", "-0.3", "+12,410"]
        );
        assert_eq!(rate(12_410.7), "12,410");
        assert_eq!(rate(f64::INFINITY), "inf");
    }

    #[test]
    fn spans_are_cut_to_what_matters() {
        for (millis, shown) in [
            (0, "0 s"),
            (999, "999 ms"),
            (1_050, "1 s"),
            (3_299, "3.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min"),
            (131_000, "2 min 11 s"),
            (12 * 60_000 + 59_000, "12 min"),
            (7_500_000, "2 h 5 min"),
            (3_600_000, "1 h"),
            (100 * 3_600_000, "4 d 4 h"),
        ] {
            assert_eq!(Span(Duration::from_millis(millis)).to_string(), shown);
        }
        assert!(!Span(Duration::MAX).to_string().is_empty());
    }

    #[test]
    fn spans_of_a_text_are_as_of_when_it_is_shown() {
        let seconds = Duration::from_secs;
        let (old, left) = (Moving::Grows(seconds(298)), Moving::Shrinks(seconds(40)));
        let text = format!("closed {old} ago, data came {old} ago; ends in {left}");
        assert_eq!(
            rendered(&text, Duration::ZERO),
            "closed 4 min 58 s ago, data came 4 min 58 s ago; ends in 40 s"
        );
        assert_eq!(
            rendered(&text, seconds(26)),
            "closed 5 min 24 s ago, data came 5 min 24 s ago; ends in 14 s"
        );
        assert!(rendered(&text, seconds(60)).ends_with("ends in 0 s"));
        let hostile = format!("\u{e000}12{old}\u{e001}");
        assert!(!rendered(&unmarked(&hostile), seconds(1)).is_empty());
        assert_eq!(
            rendered(&hostile, seconds(1)).matches('\u{e000}').count(),
            0
        );
    }

    #[test]
    fn a_kilobyte_is_a_thousand_bytes() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_000, "1.0 KB"),
            (9_999, "9.9 KB"),
            (312_999, "312 KB"),
            (4_200_000, "4.2 MB"),
            (u64::MAX, "18446744073 GB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }
}
