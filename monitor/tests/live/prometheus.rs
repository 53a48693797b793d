//! The metrics where they are meant to be: a real Prometheus scrapes the daemon under churn, with the
//! rules that are shipped; every panel of the dashboard and every recording rule has data, and alerts
//! reach a real Alertmanager. Needs Debian's `prometheus` and `prometheus-alertmanager`.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::server::{Load, Script, leaky_server};
use crate::harness::socket::{Pair, listen_in, reset};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, eventually, run};

const RULES: &str = include_str!("../../dist/prometheus/tcplinger.rules.yml");
const DASHBOARD: &str = include_str!("../../dist/grafana/tcplinger.json");

/// A look at the owners is 30 s apart, and a rate needs two scrapes after it.
const UNTIL_DATA: Duration = Duration::from_secs(90);
/// Panels that are empty where all is well, and why.
const MAY_BE_EMPTY: [&str; 2] = [
    // Only those that do run out are drawn.
    "Time until they run out",
    // Only while kernel.bpf_stats_enabled, which is the whole host's.
    "Program in the kernel, each run",
];
const LEAKY: &str = "127.0.0.1:8080";
const SOUND: &str = "127.0.0.1:8081";
const NOBODY: &str = "127.0.0.1:8082";
const HELD: &str = "127.0.0.1:8083";

/// A program that serves HTTP; ended on drop, and its log shown if the test failed.
struct Server {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    fn start(program: &str, scratch: &Scratch, arguments: &[String]) -> Self {
        // Its port is free now; nobody else here asks for a certain one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let address = port.unwrap().to_string();
        let log = scratch.path(&format!("{program}.log"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program, "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let server = Self {
            child,
            url: format!("http://{address}"),
            log,
        };
        let is_ready = eventually(PATIENCE, || server.get("/-/ready"));
        assert!(is_ready.is_some(), "{program} does not get ready");
        server
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut answer = ureq::get(format!("{}{path}", self.url)).call().ok()?;
        answer.body_mut().read_to_string().ok()
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path).unwrap_or_else(|| panic!("no {path}"));
        serde_json::from_str(&answer).unwrap()
    }

    /// What Prometheus answers to a query now.
    fn query(&self, query: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/query", self.url);
        let mut answer = ureq::post(url)
            .send_form([("query", query)])
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let answer = answer.body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if eventually(PATIENCE, || self.child.try_wait().ok().flatten()).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {}:\n{log}---", self.log.display());
        }
    }
}

fn alertmanager(scratch: &Scratch) -> Server {
    let config = scratch.path("alertmanager.yml");
    fs::write(
        &config,
        "{route: {receiver: none}, receivers: [{name: none}]}",
    )
    .unwrap();
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", scratch.path("alerts").display()),
        "--cluster.listen-address=".to_owned(),
    ];
    Server::start("prometheus-alertmanager", scratch, &arguments)
}

/// Scrapes the daemon every second, and knows the rules that are shipped, without their patience.
fn prometheus(scratch: &Scratch, daemon: &str, alertmanager: &str) -> Server {
    let config = scratch.path("prometheus.yml");
    let rules = scratch.path("rules.yml");
    fs::write(&rules, impatient(RULES)).unwrap();
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [{}]\n\
         scrape_configs: [{{job_name: tcplinger, static_configs: [{{targets: ['{daemon}']}}]}}]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n",
        rules.display()
    );
    fs::write(&config, text).unwrap();
    let promtool = ["check", "config"];
    run(Command::new("promtool").args(promtool).arg(&config));
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", scratch.path("data").display()),
    ];
    Server::start("prometheus", scratch, &arguments)
}

fn impatient(rules: &str) -> String {
    let lines = rules.lines().map(|line| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 1s\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// Host and port of the daemon's listener.
fn listener(daemon: &Daemon) -> String {
    let url = daemon.http_address();
    url.trim_start_matches("http://").to_owned()
}

/// Judges soon, so that a test need not wait for minutes.
fn quick(scratch: &Scratch) -> Daemon {
    let config = scratch.write(
        "[leak]\nwindow = \"5s\"\ngrowth = 10\n\
         [ages.close_wait]\nwarning = \"1s\"\ncritical = \"2s\"\n",
    );
    Daemon::with(&format!("--listen 127.0.0.1:0 --config {config}"))
}

/// Every way in which connections begin and end, and ports enough in use to be told of, until dropped.
struct Churn {
    _leaky: Script,
    _held: Vec<Pair>,
    _loads: [Load; 3],
}

impl Churn {
    fn start(netns: &Netns) -> Self {
        netns.sysctl("ip_local_port_range", "33000 33499");
        let leaky = leaky_server(netns, "leaky", LEAKY, 8_192);
        let holder = listen_in(netns, HELD);
        let sound = listen_in(netns, SOUND);
        let connect = |address: &'static str| TcpStream::connect(address);
        Self {
            _leaky: leaky,
            _held: (0..250).map(|_| Pair::new(netns, &holder)).collect(),
            _loads: [
                Load::start(netns, 5, move || connect(LEAKY).is_ok()),
                // The server closes after its peer, and first in turn.
                Load::start(netns, 20, move || {
                    let client = connect(SOUND).unwrap();
                    let (server, _) = sound.accept().unwrap();
                    drop(client);
                    drop(server);
                    let client = connect(SOUND).unwrap();
                    drop(sound.accept().unwrap());
                    drop(client);
                    let client = connect(SOUND).unwrap();
                    let (_server, _) = sound.accept().unwrap();
                    reset(client);
                    true
                }),
                Load::start(netns, 10, move || connect(NOBODY).is_err()),
            ],
        }
    }
}

/// Title and query of every target of every panel, its variables filled in.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for panel in [vec![panel.clone()], list(&panel["panels"])].concat() {
            for target in list(&panel["targets"]) {
                let query = [
                    ("$__rate_interval", "20s"),
                    ("$dwell_state", "close_wait"),
                    ("$job", "tcplinger"),
                    ("$instance", ".*"),
                    ("$namespace", ".*"),
                ]
                .iter()
                .fold(
                    target["expr"].as_str().unwrap().to_owned(),
                    |text, (name, value)| text.replace(name, value),
                );
                queries.push((panel["title"].as_str().unwrap().to_owned(), query));
            }
        }
    }
    queries
}

fn recorded() -> impl Iterator<Item = (String, String)> {
    RULES
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- record: "))
        .map(|name| ("recording rule".to_owned(), name.to_owned()))
}

#[test]
fn every_panel_and_every_recording_rule_has_data_and_alerts_arrive() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let _churn = Churn::start(&netns);
    let alertmanager = alertmanager(&scratch);
    let prometheus = prometheus(&scratch, &listener(&daemon), alertmanager.address());

    let mut silent: Vec<(String, String)> = queries().into_iter().chain(recorded()).collect();
    assert!(silent.len() > 60, "{}", silent.len());
    eventually(UNTIL_DATA, || {
        silent.retain(|(_, query)| prometheus.query(query).is_empty());
        silent.retain(|(title, _)| !MAY_BE_EMPTY.contains(&title.as_str()));
        silent.is_empty().then_some(())
    });
    assert!(silent.is_empty(), "without data: {silent:#?}");

    for wanted in ["TcplingerCloseWaitLeak", "TcplingerStuckConnections"] {
        let alert = eventually(PATIENCE, || {
            let alerts = alertmanager.json("/api/v2/alerts");
            let alerts = alerts.as_array().unwrap().clone();
            alerts
                .into_iter()
                .find(|alert| alert["labels"]["alertname"] == wanted)
        });
        let alert = alert.unwrap_or_else(|| panic!("no {wanted}"));
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with(&wanted.to_lowercase()), "{url}");
        assert_eq!(alert["labels"]["job"], "tcplinger");
    }
    // A daemon that is well raises no alert about itself.
    for alert in ["Down", "SampleStale", "Restarting"] {
        let query = format!("ALERTS{{alertname=\"Tcplinger{alert}\"}}");
        assert_eq!(prometheus.query(&query), [] as [Value; 0]);
    }
}

#[test]
fn a_daemon_that_is_gone_is_told() {
    let scratch = Scratch::new();
    let alertmanager = alertmanager(&scratch);
    let mut daemon = quick(&scratch);
    let prometheus = prometheus(&scratch, &listener(&daemon), alertmanager.address());
    let is_up = eventually(PATIENCE, || {
        Some(prometheus.query("up == 1")).filter(|up| !up.is_empty())
    });
    assert!(is_up.is_some());
    daemon.end(Signal::TERM);
    let told = eventually(PATIENCE, || {
        let alerts = alertmanager.json("/api/v2/alerts");
        let is_down = |alert: &Value| alert["labels"]["alertname"] == "TcplingerDown";
        alerts.as_array().unwrap().iter().any(is_down).then_some(())
    });
    assert!(told.is_some(), "no alert");
}
