//! The daemon's page in a real browser: what an operator sees of a server that never closes.

use std::fs;
use std::net::TcpStream;

use crate::harness::{Browser, Daemon, Netns, Program, Scratch};

/// Ages that a test can wait for.
const SOON: &str = "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"2s\"\n";
const CONNECTIONS: usize = 3;
/// Its name must be shown and not obeyed; a process's has 15 bytes.
const NAME: &str = "<img src=q>";
/// Desktop and phone.
const LOOKS: [(u32, &str); 4] = [
    (1280, "light"),
    (1280, "dark"),
    (390, "light"),
    (390, "dark"),
];

/// A server with connections that their clients have closed.
fn forgetful_server(netns: &Netns) -> Program {
    let mut server = Program::puppet(netns);
    let name = NAME.as_bytes().iter().map(u8::to_string);
    server.tell(&format!("name {}", name.collect::<Vec<_>>().join(" ")));
    let port: u16 = server.ask("listen 127.0.0.1 16");
    for _ in 0..CONNECTIONS {
        let client = netns.enter(|| TcpStream::connect(("127.0.0.1", port)).unwrap());
        let _: u32 = server.ask("accept");
        drop(client);
    }
    server
}

fn listening(config: &str, scratch: &Scratch) -> Daemon {
    let config = scratch.write(config);
    Daemon::with(&format!("--listen 127.0.0.1:0 --config {config}"))
}

/// Other tests have findings, too.
fn list_only(browser: &Browser, netns: &Netns) {
    browser.run(&format!(
        "const filter = document.getElementById('filter');
         filter.value = '{}';
         filter.dispatchEvent(new Event('input'))",
        netns.inode()
    ));
}

fn assert_is_live(browser: &Browser) {
    browser.wait_until("document.getElementById('fresh-state').textContent == 'Live'");
}

/// One critical incident with its sockets behind a click; and a chart of more than one point.
fn assert_shows(browser: &Browser, pid: u32) {
    browser.wait_until(&format!(
        "document.querySelector('#incidents > [data-severity=critical] .number')
             ?.textContent == '{CONNECTIONS} sockets'"
    ));
    assert_eq!(
        browser.run("return document.querySelectorAll('#incidents > li').length"),
        1
    );
    browser.run("document.querySelector('#incidents details').open = true");
    browser.wait_until(&format!(
        "document.querySelectorAll('#incidents .sockets li').length == {CONNECTIONS}"
    ));
    for words in [
        &format!("{NAME}[{pid}]"),
        "CLOSE_WAIT",
        "the peer closed",
        "find the missing close()",
    ] {
        browser.wait_until(&format!(
            "document.getElementById('incidents').innerText.includes('{words}')"
        ));
    }
    assert_eq!(browser.run("return document.images.length"), 0);
    // CLOSE_WAIT and TIME_WAIT, each a line from one point to the next.
    browser.wait_until(
        "[...document.querySelectorAll('#chart .line')]
             .filter((line) => line.getAttribute('d').includes('L')).length == 2",
    );
    browser.wait_until("document.querySelector('#owners tr')");
}

/// It has the colours of the scheme, and only boxes in it scroll sideways.
fn assert_looks(browser: &Browser, width: u32, scheme: &str) {
    browser.look(width, scheme);
    let ground = browser.run("return getComputedStyle(document.body).backgroundColor");
    let is_dark = ground.as_str().unwrap().starts_with("rgb(1");
    assert_eq!(is_dark, scheme == "dark", "{ground}");
    // The chart follows its box in a moment.
    browser.wait_until(&format!(
        "document.documentElement.scrollWidth <= {width}
         && document.querySelector('#chart svg').getBoundingClientRect().right <= {width}"
    ));
}

#[test]
fn a_server_that_never_closes_as_the_page_shows_it() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = listening(SOON, &scratch);
    let mut server = forgetful_server(&netns);
    let browser = Browser::start();
    browser.open(&daemon.http_address());
    assert_is_live(&browser);
    list_only(&browser, &netns);
    assert_shows(&browser, server.pid());
    for (width, scheme) in LOOKS {
        assert_looks(&browser, width, scheme);
        browser.keep_picture(&format!("page-{width}-{scheme}"));
    }
    for _ in 0..CONNECTIONS {
        server.tell("close");
    }
    browser.wait_until("!document.querySelector('#incidents > li')");
    let console = browser.console();
    assert!(console.is_empty(), "{console:#?}");
}

#[test]
fn the_page_asks_for_the_token() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let file = scratch.path("token");
    fs::write(&file, "a-token-for-this-test\n").unwrap();
    let daemon = listening(
        &format!("{SOON}[http]\nbearer_token_file = {file:?}\n"),
        &scratch,
    );
    let _server = forgetful_server(&netns);
    let browser = Browser::start();
    browser.open(&daemon.http_address());
    browser.wait_until("document.activeElement?.id == 'token'");
    browser.type_into("token", "guessed\u{e007}");
    browser.wait_until("!document.getElementById('refusal').hidden");
    browser.type_into("token", "a-token-for-this-test\u{e007}");
    assert_is_live(&browser);
    list_only(&browser, &netns);
    browser.wait_until("document.querySelector('#incidents > li')");
    // The tab keeps it.
    browser.open(&daemon.http_address());
    assert_is_live(&browser);
}
