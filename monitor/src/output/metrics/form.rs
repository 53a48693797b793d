//! Which exposition format a client gets: content negotiation (RFC 9110 section 12.5.1).

use std::cmp::Reverse;

/// A form of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The text of the `OpenMetrics` standard, 1.0.0.
    OpenMetrics,
    /// Prometheus' own text, 0.0.4.
    Text,
    /// Delimited protobuf: the only one with native histograms.
    Protobuf,
}

/// One entry of an `Accept` header.
struct Range<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// 0 to 1.
    quality: f64,
}

impl Form {
    const ALL: [Self; 3] = [Self::Text, Self::OpenMetrics, Self::Protobuf];

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }

    /// The form that the client likes best; among equals the one that it names most exactly, then
    /// the one that it names first. Text for a client that asks for nothing, or for nothing that
    /// there is.
    pub(crate) fn accepted(accept_header: &str) -> Self {
        let ranges: Vec<Range<'_>> = accept_header.split(',').filter_map(Range::parse).collect();
        let mut best = (Self::Text, None);
        for form in Self::ALL {
            let matching = ranges.iter().enumerate().filter_map(|(place, range)| {
                let precision = range.precision(form)?;
                Some((precision, Reverse(place), range.quality))
            });
            // The most exact entry tells the quality, even where another has a better one.
            let Some((precision, place, quality)) = matching.max_by_key(|found| (found.0, found.1))
            else {
                continue;
            };
            // Qualities have three digits: compared as such.
            let rank = ((quality * 1000.0).round().to_bits(), precision, place);
            if quality > 0.0 && best.1.is_none_or(|other| rank > other) {
                best = (form, Some(rank));
            }
        }
        best.0
    }

    /// Type, and the values that its parameters must have where they are given.
    const fn media_type(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::OpenMetrics => (
                "application/openmetrics-text",
                &[("version", "1.0.0"), ("charset", "utf-8")],
            ),
            Self::Text => ("text/plain", &[("version", "0.0.4"), ("charset", "utf-8")]),
            Self::Protobuf => (
                "application/vnd.google.protobuf",
                &[
                    ("proto", "io.prometheus.client.MetricFamily"),
                    ("encoding", "delimited"),
                ],
            ),
        }
    }
}

impl<'a> Range<'a> {
    /// None for what is no media range.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().filter(|kind| kind.contains('/'))?;
        let mut range = Self {
            kind,
            parameters: Vec::new(),
            quality: 1.0,
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                let quality: f64 = value.parse().ok()?;
                range.quality = (0.0..=1.0).contains(&quality).then_some(quality)?;
            } else {
                range.parameters.push((name, value));
            }
        }
        Some(range)
    }

    /// How exactly it names the form; None where it means another. Parameters that no form has,
    /// such as `escaping`, are left out of account.
    fn precision(&self, form: Form) -> Option<usize> {
        let (kind, known) = form.media_type();
        if self.kind == "*/*" {
            return Some(0);
        }
        if let Some(group) = self.kind.strip_suffix("/*") {
            let (of, _) = kind.split_once('/')?;
            return of.eq_ignore_ascii_case(group).then_some(1);
        }
        let agrees = |(name, value): &(&str, &str)| {
            let mut same = known
                .iter()
                .filter(|known| known.0.eq_ignore_ascii_case(name));
            same.all(|known| known.1.eq_ignore_ascii_case(value))
        };
        let is_meant = self.kind.eq_ignore_ascii_case(kind) && self.parameters.iter().all(agrees);
        is_meant.then_some(2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_client_gets_what_it_likes_best() {
        for (accept, form) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/*", Form::Text),
            ("application/*", Form::OpenMetrics),
            ("image/png", Form::Text),
            ("application/openmetrics-text", Form::OpenMetrics),
            (
                "Application/OpenMetrics-Text; Version=\"1.0.0\"",
                Form::OpenMetrics,
            ),
            ("application/openmetrics-text; version=0.0.1", Form::Text),
            ("*/*, application/openmetrics-text", Form::OpenMetrics),
            ("*/*;q=0.9, application/openmetrics-text;q=0.1", Form::Text),
            ("text/plain;q=0, */*;q=0.1", Form::OpenMetrics),
            (
                "text/plain;q=0.3, application/openmetrics-text;q=0.35",
                Form::OpenMetrics,
            ),
            ("text/plain, application/openmetrics-text", Form::Text),
            (
                "application/openmetrics-text, text/plain",
                Form::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=2, text/plain;q=0.1",
                Form::Text,
            ),
            (
                "application/vnd.google.protobuf;encoding=text, */*;q=0.1",
                Form::Text,
            ),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Form::Text,
            ),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }

    /// As Prometheus sends it: 2.42 without and with native histograms, 3.x.
    #[test]
    fn prometheus_gets_what_it_asks_for() {
        let plain = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                     version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(plain), Form::OpenMetrics);
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
                      application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;\
                      q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(native), Form::Protobuf);
        let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                     application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;\
                     escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1";
        assert_eq!(Form::accepted(newer), Form::OpenMetrics);
    }

    #[test]
    fn every_form_is_accepted_under_its_own_name() {
        for form in Form::ALL {
            assert_eq!(Form::accepted(form.content_type()), form);
        }
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(accept in "[a-z*/;,=q0-9.\" \\PC]{0,80}") {
            Form::accepted(&accept);
        }
    }
}
