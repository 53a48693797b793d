//! The paths that a source file mentions, in `use` and elsewhere, with their lines.
//!
//! It reads tokens: comments and strings never count, the arguments of macros and attributes do.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};

/// A path of two names or more, or one in `use`; from `crate` on where it is this crate's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) path: Vec<String>,
}

/// Reads the source of the file that is `module` in the module tree.
pub(super) fn of(source: &str, module: &[String]) -> Result<Vec<Mention>> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow!("{error}"))?;
    let mut reader = Reader {
        module: module.to_vec(),
        mentions: Vec::new(),
    };
    reader.tokens(tokens);
    Ok(reader.mentions)
}

struct Reader {
    /// Where in the module tree the tokens at hand are.
    module: Vec<String>,
    mentions: Vec<Mention>,
}

impl Reader {
    fn tokens(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [token, tail @ ..] = rest {
            rest = match (token, tail) {
                (TokenTree::Ident(word), [TokenTree::Ident(name), tail @ ..]) if word == "mod" => {
                    self.inline_module(name, tail)
                }
                // `impl Trait + use<'a>` is no import.
                (TokenTree::Ident(word), tail @ [next, ..])
                    if word == "use"
                        && !matches!(next, TokenTree::Punct(p) if p.as_char() == '<') =>
                {
                    self.used(tail, &[])
                }
                (TokenTree::Ident(first), tail) => self.path(first, tail, None),
                (TokenTree::Group(group), tail) => {
                    self.tokens(group.stream());
                    tail
                }
                (_, tail) => tail,
            };
        }
    }

    fn inline_module<'a>(&mut self, name: &Ident, tail: &'a [TokenTree]) -> &'a [TokenTree] {
        let [TokenTree::Group(body), tail @ ..] = tail else {
            return tail;
        };
        self.module.push(name.to_string());
        self.tokens(body.stream());
        self.module.pop();
        tail
    }

    /// What follows `use` up to its semicolon, or what its braces hold.
    fn used<'a>(&mut self, mut rest: &'a [TokenTree], prefix: &[String]) -> &'a [TokenTree] {
        while let [token, tail @ ..] = rest {
            rest = match (token, tail) {
                (TokenTree::Ident(word), [_, tail @ ..]) if word == "as" => tail,
                (TokenTree::Ident(first), tail) => self.path(first, tail, Some(prefix)),
                (TokenTree::Group(group), tail) => {
                    self.use_group(group.stream(), prefix);
                    tail
                }
                (TokenTree::Punct(end), tail) if end.as_char() == ';' => return tail,
                (_, tail) => tail,
            };
        }
        rest
    }

    fn use_group(&mut self, stream: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        self.used(&tokens, prefix);
    }

    /// The path that starts with `first`; `prefix` is what stands before the braces of a `use`.
    fn path<'a>(
        &mut self,
        first: &Ident,
        mut rest: &'a [TokenTree],
        prefix: Option<&[String]>,
    ) -> &'a [TokenTree] {
        let mut path = prefix.unwrap_or_default().to_vec();
        path.push(first.to_string());
        while let Some(tail) = after_colons(rest) {
            rest = match tail {
                [TokenTree::Ident(name), tail @ ..] => {
                    path.push(name.to_string());
                    tail
                }
                [TokenTree::Group(group), tail @ ..] if group.delimiter() == Delimiter::Brace => {
                    self.use_group(group.stream(), &path);
                    return tail;
                }
                tail => {
                    rest = tail;
                    break;
                }
            };
        }
        if prefix.is_some() || path.len() > 1 {
            let path = self.absolute(path);
            let line = first.span().start().line;
            self.mentions.push(Mention { line, path });
        }
        rest
    }

    /// Follows leading `self` and `super` to where they lead.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let is_relative = |name: &&String| *name == "self" || *name == "super";
        let relative = path.iter().take_while(is_relative).count();
        if relative == 0 {
            return path;
        }
        let up = path.iter().filter(|name| *name == "super").count();
        let here = self.module.len().saturating_sub(up);
        std::iter::once("crate".to_owned())
            .chain(self.module.iter().take(here).cloned())
            .chain(path.into_iter().skip(relative))
            .collect()
    }
}

/// What follows a `::`, if the tokens start with one.
fn after_colons(rest: &[TokenTree]) -> Option<&[TokenTree]> {
    let [TokenTree::Punct(first), TokenTree::Punct(second), tail @ ..] = rest else {
        return None;
    };
    let is_colons =
        first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':';
    is_colons.then_some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(source: &str) -> Vec<String> {
        let module = ["track".to_owned(), "census".to_owned()];
        let mentions = of(source, &module).unwrap();
        mentions
            .iter()
            .map(|mention| format!("{} {}", mention.line, mention.path.join("::")))
            .collect()
    }

    #[test]
    fn use_trees_are_followed() {
        assert_eq!(
            mentions("use crate::{tcp, track::{Census, self as t}};\nuse aya as kernel;"),
            [
                "1 crate::tcp",
                "1 crate::track::Census",
                "1 crate::track::self",
                "2 aya"
            ]
        );
        assert_eq!(mentions("use ::aya::maps::*;"), ["1 aya::maps"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(mentions("use super::stuck;"), ["1 crate::track::stuck"]);
        assert_eq!(mentions("use super::super::output;"), ["1 crate::output"]);
        assert_eq!(
            mentions("use self::inner::X;"),
            ["1 crate::track::census::inner::X"]
        );
        assert_eq!(
            mentions("mod tests {\n use super::*;\n use super::super::super::cli::A;\n}"),
            ["2 crate::track::census", "3 crate::cli::A"]
        );
    }

    #[test]
    fn paths_in_code_macros_and_attributes_count() {
        assert_eq!(
            mentions("#[derive(clap::Args)]\nfn f(x: &crate::output::Text) { p!(\"{}\", aya::Y) }"),
            ["1 clap::Args", "2 crate::output::Text", "2 aya::Y"]
        );
        assert_eq!(mentions("let x = y as crate::tcp::Z;"), ["1 crate::tcp::Z"]);
    }

    #[test]
    fn words_that_are_no_path_do_not_count() {
        let captures = "fn f() -> impl Copy + use<'_> { clap }";
        assert_eq!(mentions(captures), Vec::<String>::new());
        let source = "//! aya::Ebpf\n/// crate::output\nfn aya(aya: u8) -> &'static str { \
                      let clap:&str = \"clap::Parser\"; self.aya.clap::<u8>() }";
        assert_eq!(mentions(source), Vec::<String>::new());
    }
}
