//! Debian's nginx and redis at work: nothing is stuck, and when something is, it is theirs.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::server::{Load, Notices, Program, about, config, finding, list, stuck};
use crate::harness::socket::{listen_in, reset};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, eventually};

const NGINX: &str = "127.0.0.1:8080";
const REDIS: &str = "127.0.0.1:6379";
/// Longer than the window of [`RULES`], so that a leak would be seen.
const A_WHILE: Duration = Duration::from_secs(8);
/// The defaults, but for the time that it takes to see a leak.
const RULES: &str = "[leak]\nwindow = \"5s\"\n";

fn quick(scratch: &Scratch, rules: &str) -> Daemon {
    Daemon::with(&config(&scratch.path("config.toml"), rules))
}

/// A web server in a directory of its own: `/` answers at once, `/slow` asks port 8081.
fn nginx(netns: &Netns, scratch: &Scratch) -> Program {
    let root = scratch.path("nginx");
    std::fs::create_dir(&root).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};", root.display()))
        .concat();
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {root}/pid; events {{}} http {{ \
         access_log off; {temporary} server {{ listen {NGINX}; \
         location / {{ return 200 hello; }} \
         location /slow {{ proxy_pass http://127.0.0.1:8081; proxy_ignore_client_abort on; }} \
         }} }}",
        root = root.display()
    );
    let file = root.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(&root);
    command.arg("-c").arg(&file);
    serving(netns, &mut command, NGINX)
}

/// A database in memory.
fn redis(netns: &Netns, scratch: &Scratch) -> Program {
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        "6379",
        "--save",
        "",
        "--dir",
    ]);
    command.arg(scratch.path(""));
    serving(netns, &mut command, REDIS)
}

/// Returns when it accepts connections.
fn serving(netns: &Netns, command: &mut Command, address: &str) -> Program {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null());
    let program = Program::start(netns, silent.stderr(Stdio::null()));
    let accepts = || netns.enter(|| TcpStream::connect(address).ok());
    assert!(
        eventually(PATIENCE, accepts).is_some(),
        "{command:?} does not serve"
    );
    program
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `request` and waits for `answer`, as often as it comes.
fn ask(stream: &mut TcpStream, request: &str, answer: &str) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(answer) {
        let read = stream.read(&mut bytes).unwrap();
        assert!(
            read > 0,
            "no {answer:?} but {:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend(&bytes[..read]);
    }
}

/// Clients of every habit, 100 a second of them: who asks and closes, who half-closes first, who
/// leaves without reading, who resets, who stays for several requests, who comes and says nothing.
fn guests(
    netns: &Netns,
    address: &'static str,
    request: &'static str,
    answer: &'static str,
) -> Load {
    let mut idle = Vec::new();
    let mut times = 0_u32;
    Load::start(netns, 100, move || {
        let mut guest = connect(address);
        match times % 6 {
            0 => ask(&mut guest, request, answer),
            1 => {
                guest.write_all(request.as_bytes()).unwrap();
                guest.shutdown(Shutdown::Write).unwrap();
                let _ = guest.read_to_end(&mut Vec::new());
            }
            2 => guest.write_all(request.as_bytes()).unwrap(),
            3 => {
                guest.write_all(request.as_bytes()).unwrap();
                reset(guest);
            }
            4 => (0..5).for_each(|_| ask(&mut guest, request, answer)),
            _ if idle.len() < 50 => idle.push(guest),
            _ => drop(idle.remove(0)),
        }
        times += 1;
        true
    })
}

/// Nothing is stuck while the guests are there, nor when they have gone.
fn assert_nothing_is_stuck(netns: &Netns, scratch: &Scratch, guests: impl FnOnce() -> Load) {
    let daemon = quick(scratch, RULES);
    let notices = Notices::of(&daemon, netns);
    let load = guests();
    thread::sleep(A_WHILE);
    assert_eq!(stuck(&daemon, netns), [] as [Value; 0]);
    load.end();
    thread::sleep(Duration::from_secs(1));
    let left = list(&mut about(&daemon, netns, "stuck --all --format json"));
    eprintln!("{} sockets still linger", left.len());
    assert_eq!(stuck(&daemon, netns), [] as [Value; 0]);
    assert_eq!(notices.all(), [] as [&str; 0]);
}

#[test]
fn nginx_at_work_is_not_stuck() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let _nginx = nginx(&netns, &scratch);
    assert_nothing_is_stuck(&netns, &scratch, || {
        guests(
            &netns,
            NGINX,
            "GET / HTTP/1.1\r\nHost: here\r\n\r\n",
            "hello",
        )
    });
}

#[test]
fn redis_at_work_is_not_stuck() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let _redis = redis(&netns, &scratch);
    assert_nothing_is_stuck(&netns, &scratch, || {
        guests(&netns, REDIS, "PING\r\n", "+PONG\r\n")
    });
}

/// It was told to wait for its upstream whatever the client does, and the upstream never answers.
#[test]
fn nginx_that_waits_for_nothing_is_stuck() {
    const RULES: &str = "[[socket]]\nname = \"gone clients\"\nprocess = \"nginx\"\n\
                         state = \"close_wait\"\nwarning = \"1s\"\ncritical = \"1h\"\n";
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let _silent = listen_in(&netns, "127.0.0.1:8081");
    let nginx = nginx(&netns, &scratch);
    let daemon = quick(&scratch, RULES);
    let mut client = netns.enter(|| connect(NGINX));
    client
        .write_all(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    let port = client.local_addr().unwrap().port();
    thread::sleep(Duration::from_millis(200));
    drop(client);
    let found = finding(&daemon, &netns, "gone clients");
    let socket = &found["examples"][0];
    assert_eq!(socket["local"], NGINX);
    assert_eq!(socket["remote"], format!("127.0.0.1:{port}"));
    assert_eq!(found["owners"][0]["comm"], "nginx");
    assert_ne!(
        found["owners"][0]["pid"],
        nginx.pid(),
        "a worker has it, not the master"
    );
}

/// Stopped in the middle of its work, as by a script that never ends.
#[test]
fn redis_that_stands_still_is_stuck_until_it_goes_on() {
    const RULES: &str = "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"3s\"\n";
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let redis = redis(&netns, &scratch);
    let daemon = quick(&scratch, RULES);
    let notices = Notices::of(&daemon, &netns);
    let mut client = netns.enter(|| connect(REDIS));
    ask(&mut client, "PING\r\n", "+PONG\r\n");
    redis.signal(Signal::STOP);
    client.write_all(b"PING\r\n").unwrap();
    drop(client);
    notices.wait_for("default", "raised");
    let found = finding(&daemon, &netns, "default");
    assert_eq!(found["owners"][0]["pid"], redis.pid());
    assert_eq!(found["owners"][0]["comm"], "redis-server");
    assert_eq!(found["recv_queue_bytes"], 6);
    notices.wait_for("default", "worsened");
    redis.signal(Signal::CONT);
    notices.wait_for("default", "cleared");
    assert_eq!(stuck(&daemon, &netns), [] as [Value; 0]);
}
