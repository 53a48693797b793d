//! The table of `docs/metrics.md`, from the code. `TCPLINGER_BLESS=1 cargo test` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::{Family, families};

const START: &str = "<!-- from monitor/src/output/metrics/{table,own}.rs: do not edit -->\n";
const END: &str = "<!-- end of the table -->\n";

fn table() -> String {
    let mut table = "\n| metric | kind | unit | labels | series at most | what it is | in OTLP |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    for family in families() {
        let Family {
            unit, most, help, ..
        } = family;
        let (suffix, kind) = (family.kind.suffix(), family.kind.name());
        let labels = family.labels.iter().map(|label| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let (name, (otel, ucum)) = (family.name, family.otel);
        let _ = writeln!(
            table,
            "| `{name}{suffix}` | {kind} | {unit} | {labels} | {most} | {help} | `{otel}`, \
             `{ucum}` |"
        );
    }
    let sum: usize = families().map(|family| family.most).sum();
    let _ = writeln!(table, "| | | | | **{sum}** | | |\n");
    table
}

#[test]
fn the_reference_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let table = table();
    if std::env::var_os("TCPLINGER_BLESS").is_some() {
        std::fs::write(&path, [before, START, &table, END, after].concat()).unwrap();
    } else {
        assert!(
            written == table,
            "{} is old: TCPLINGER_BLESS=1 cargo test",
            path.display()
        );
    }
}
