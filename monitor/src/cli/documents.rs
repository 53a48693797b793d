//! Man pages and completions from the types that read the command line, written for the packages where
//! `TCPLINGER_DOCUMENTS` names a folder (`cargo xtask dist`).

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

use super::Cli;

const NAME: &str = "tcplinger";

/// Name and text of the page of each verb, the program's own first.
fn pages() -> Vec<(String, String)> {
    let mut program = Cli::command();
    program.build();
    let verbs = program
        .get_subcommands()
        .filter(|verb| verb.get_name() != "help");
    let verbs = verbs.map(|verb| {
        let name = format!("{NAME}-{}", verb.get_name());
        (
            name.clone(),
            page(verb.clone().name(&*Box::leak(name.into_boxed_str()))),
        )
    });
    let first = (NAME.to_owned(), page(program.clone()));
    [first].into_iter().chain(verbs).collect()
}

fn page(command: Command) -> String {
    let mut text = Vec::new();
    Man::new(command).render(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn write(folder: &Path) {
    let man = folder.join("man");
    fs::create_dir_all(&man).unwrap();
    for (name, text) in pages() {
        fs::write(man.join(format!("{name}.1")), text).unwrap();
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), NAME, folder).unwrap();
    }
}

/// Removed on drop, unless it was asked for.
struct Folder(PathBuf, bool);

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.1 {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[test]
fn every_verb_has_a_page_and_every_flag_is_completed() {
    let wanted = std::env::var_os("TCPLINGER_DOCUMENTS").map(PathBuf::from);
    let own = std::env::temp_dir().join(format!("tcplinger-documents-{}", std::process::id()));
    let folder = Folder(wanted.clone().unwrap_or(own), wanted.is_some());
    write(&folder.0);
    let read = |file: &str| fs::read_to_string(folder.0.join(file)).unwrap();
    for verb in Cli::command().get_subcommands() {
        let name = verb.get_name();
        let page = read(&format!("man/{NAME}-{name}.1"));
        for flag in verb.get_arguments().filter_map(clap::Arg::get_long) {
            let in_page = format!("\\-\\-{}", flag.replace('-', "\\-"));
            assert!(page.contains(&in_page), "{name} --{flag}");
            for file in ["tcplinger.bash", "_tcplinger", "tcplinger.fish"] {
                assert!(read(file).contains(flag), "{file}: {name} --{flag}");
            }
        }
    }
}
