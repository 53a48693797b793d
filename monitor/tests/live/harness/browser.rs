//! Headless Chromium, led through chromedriver (W3C `WebDriver`, plain HTTP). Needs Debian's packages
//! `chromium` and `chromium-driver`.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::daemon::Scratch;
use super::eventually;

/// A browser takes its time to start where every CPU is busy.
const PATIENCE: Duration = Duration::from_mins(1);
/// The name under which the driver hands out an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window; ended on drop, its driver and its profile with it.
pub(crate) struct Browser {
    driver: Child,
    /// Held open: the driver dies of a pipe that nobody reads.
    _output: BufReader<ChildStdout>,
    agent: ureq::Agent,
    /// Where the commands go.
    session: String,
    _profile: Scratch,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = Scratch::new();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", profile.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver: apt-get install chromium-driver");
        let mut output = BufReader::new(driver.stdout.take().unwrap());
        let port = port(&mut output);
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false);
        let mut browser = Self {
            driver,
            _output: output,
            agent: config.build().into(),
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.post(
            "",
            &json!({ "capabilities": { "alwaysMatch": capabilities } }),
        );
        browser.session.push('/');
        browser.session += session["sessionId"].as_str().unwrap();
        browser
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let url = format!("{}{command}", self.session);
        let mut response = self.agent.post(&url).send_json(body).unwrap();
        let mut answer: Value = response.body_mut().read_json().unwrap();
        assert_eq!(response.status(), 200, "{command} {body}: {answer:#}");
        answer["value"].take()
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What a function body returns in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits for an expression to become true.
    pub(crate) fn wait_until(&self, condition: &str) {
        let is_so = eventually(PATIENCE, || {
            let is_so = self.run(&format!("return Boolean({condition})"));
            (is_so == true).then_some(())
        });
        let text = || self.run("return document.body.innerText");
        assert!(is_so.is_some(), "never {condition}: {:#}", text());
    }

    /// Types into the element with this id, as a keyboard does; `\u{e007}` is Enter.
    pub(crate) fn type_into(&self, id: &str, keys: &str) {
        let selector = json!({ "using": "css selector", "value": format!("#{id}") });
        let found = self.post("/element", &selector);
        let element = found[ELEMENT].as_str().unwrap();
        self.post(
            &format!("/element/{element}/value"),
            &json!({ "text": keys }),
        );
    }

    /// A window of this width, and `light` or `dark`.
    pub(crate) fn look(&self, width: u32, scheme: &str) {
        self.look_at(width, 844, scheme);
    }

    /// The same, of this height.
    pub(crate) fn look_at(&self, width: u32, height: u32, scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        );
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", &body)
    }

    /// Keeps the whole page as a picture below `TCPLINGER_SCREENSHOTS`, where that is set.
    pub(crate) fn keep_picture(&self, name: &str) {
        let Some(folder) = env::var_os("TCPLINGER_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        let shot = self.devtools(
            "Page.captureScreenshot",
            &json!({ "format": "png", "captureBeyondViewport": true }),
        );
        fs::create_dir_all(&folder).unwrap();
        let picture = BASE64_STANDARD.decode(shot["data"].as_str().unwrap());
        fs::write(folder.join(format!("{name}.png")), picture.unwrap()).unwrap();
    }

    /// What the console got since it was last asked: errors, refused resources, violations.
    pub(crate) fn console(&self) -> Vec<Value> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        log.as_array().unwrap().clone()
    }
}

/// The one that the driver chose and tells.
fn port(output: &mut impl BufRead) -> u16 {
    let told = output.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    told.expect("chromedriver tells its port")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Only the driver can end the browser, which has a process group of its own.
        let _ = self.agent.delete(&self.session).call();
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}
