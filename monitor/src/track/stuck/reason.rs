//! What keeps a socket where it is, and what to do about it: sentences that claim no more than the
//! evidence shows. Commands hold numbers and addresses only, never text of another process.

use std::time::Duration;

use super::{Age, Case, Owner, connect_timeout, orphan_timeout};
use crate::tcp::{Evidence, State, Timer};
use crate::track::incident::{Cause, ss_state};
use crate::track::phrase::{Bytes, Moving, Span};

/// The kernel counts from the start of the connection where no data ever moved, in ticks, and was
/// asked a little before the age was taken: what is so close is not told apart.
const SAME_TIME: Duration = Duration::from_secs(1);
/// A peer that reads slowly has a window of 0 most of the time, but not for so long.
const SLOW_READ: Duration = Duration::from_secs(5);
/// Whose sockets have no descriptor that could be found.
const NO_DESCRIPTOR: &str = "no process has a descriptor for it: a kernel socket (NFS, iSCSI), \
                             io_uring, MPTCP, or a descriptor in flight";

/// One sentence; its spans are for [`crate::track::phrase::rendered`].
pub(super) fn template(case: &Case<'_>) -> String {
    let reason = of_state(case);
    if case.evidence.is_mptcp {
        format!("an MPTCP connection: {reason}")
    } else {
        reason
    }
}

fn of_state(case: &Case<'_>) -> String {
    let ago = ago(case.age);
    let tail = unanswered(case.evidence);
    match case.evidence.state {
        State::SynSent => format!(
            "the SYN sent {ago} has no answer{tail}; connect() fails after {} (by the sysctls)",
            Span(connect_timeout(case.limits)),
        ),
        State::SynRecv => format!("the peer's SYN arrived {ago}; its ACK has not{tail}"),
        State::FinWait1 => format!(
            "this side closed {ago}; {}; {}",
            holding(case),
            outstanding(case),
        ),
        State::FinWait2 => fin_wait2(case, &ago),
        State::CloseWait => close_wait(case, &ago),
        State::LastAck => format!(
            "the peer closed first, this side {ago}; {}",
            outstanding(case),
        ),
        State::Closing => format!(
            "both sides closed at the same time, the peer's FIN arrived {ago}; {}",
            outstanding(case),
        ),
        state => format!("it entered {state} {ago}"),
    }
}

/// What tells its cause from others, as far as the sockets of an incident must share it.
pub(crate) fn cause(case: &Case<'_>) -> Cause {
    let evidence = case.evidence;
    let is_unheld = case.owners.is_empty();
    match evidence.state {
        State::SynSent | State::SynRecv => Cause::Unanswered,
        State::CloseWait if case.is_unaccepted => Cause::NotAccepted,
        State::CloseWait | State::FinWait2 if is_unheld && !case.is_orphaned() => {
            Cause::NoDescriptor
        }
        State::CloseWait if evidence.has_read_end() => Cause::NotClosed,
        State::CloseWait => Cause::NotRead,
        State::FinWait2 if case.is_orphaned() => Cause::Orphaned,
        State::FinWait2 => Cause::HalfClosed,
        State::FinWait1 | State::LastAck | State::Closing if is_unread(evidence) => {
            Cause::PeerDoesNotRead
        }
        State::FinWait1 | State::LastAck | State::Closing => Cause::Unacknowledged,
        _ => Cause::Other,
    }
}

/// What the operator should look at or change: at most three steps. `list` is the command that lists the
/// sockets, `enter` stands before a command to run it in their namespace.
pub(crate) fn advice(case: &Case<'_>, list: &str, enter: &str) -> String {
    let evidence = case.evidence;
    let remote = evidence.remote;
    let port = evidence.local.port();
    let listed = format!("list them: `{list}`");
    let capture = capture(evidence, enter);
    match evidence.state {
        State::SynSent => format!(
            "check that {remote} is the right address and that its host is up; see whether an \
             answer arrives or a firewall drops it: {capture}; limit the wait in the application, \
             with its own timeout or TCP_SYNCNT"
        ),
        State::SynRecv => format!(
            "check the path back to {remote} (routes, firewalls): {capture}; many from changing \
             addresses are a SYN flood: keep tcp_syncookies on"
        ),
        State::CloseWait if case.is_unaccepted => format!(
            "see the backlog: `{enter}ss -ltn 'sport = :{port}'`; find out why the listener's \
             process does not call accept(): {}",
            look_into(case, &listed),
        ),
        State::CloseWait if evidence.inode == 0 => format!(
            "see whether a listener has connections waiting for accept(): `{enter}ss -ltn 'sport \
             = :{port}'`; no sysctl limits CLOSE_WAIT"
        ),
        State::CloseWait => format!(
            "{listed}; find the missing close(): {}; the process must close, or be restarted: no \
             sysctl limits CLOSE_WAIT",
            look_into(case, "it is in the application"),
        ),
        State::FinWait2 if case.is_orphaned() => {
            "nothing: the kernel ends it by itself; if there are many, find out why the peers \
             keep their side open"
                .to_owned()
        }
        State::FinWait2 => format!(
            "{listed}; call close() instead of shutdown() alone, or limit the wait for the peer's \
             FIN: {}; SO_KEEPALIVE detects a peer that is gone",
            look_into(case, "it is in the application"),
        ),
        State::FinWait1 | State::LastAck | State::Closing => {
            unacknowledged(case, &capture, &listed)
        }
        _ => "nothing: it does not linger".to_owned(),
    }
}

/// What lists just this socket.
pub(super) fn list_one(evidence: &Evidence, enter: &str) -> String {
    let Evidence { local, remote, .. } = evidence;
    let flags = if evidence.is_mptcp { "-Mnep" } else { "-tnep" };
    let state = ss_state(evidence.state);
    format!("{enter}ss {flags} state {state} 'src {local} and dst {remote}'")
}

fn close_wait(case: &Case<'_>, ago: &str) -> String {
    let evidence = case.evidence;
    let mut parts = vec![if case.is_unaccepted {
        format!(
            "the peer closed {ago} while the connection waited in the accept queue; no process \
             has called accept() for it"
        )
    } else if evidence.inode == 0 {
        format!(
            "the peer closed {ago}; the socket is not a file of any process: it may wait for \
             accept()"
        )
    } else if case.owners.is_empty() {
        format!("the peer closed {ago}; this side has not; {NO_DESCRIPTOR}")
    } else {
        format!("the peer closed {ago}; the application has not called close()")
    }];
    match evidence.unread_bytes() {
        0 if evidence.inode == 0 => {}
        0 if evidence.has_read_end() => {
            parts.push("it has read everything, including the end of the stream".to_owned());
        }
        0 if evidence.is_mptcp => {}
        0 => parts.push("it has not read the end of the stream".to_owned()),
        unread => parts.push(format!("{} still unread", are(unread))),
    }
    match evidence.unacked_bytes() {
        0 => {}
        bytes => parts.push(format!(
            "{} not acknowledged{}",
            are(bytes),
            unanswered(evidence)
        )),
    }
    parts.extend(progress(case));
    parts.join("; ")
}

fn fin_wait2(case: &Case<'_>, ago: &str) -> String {
    let holding = holding(case);
    let end = match case.evidence.timer {
        Timer::TimeWait(expires) if case.evidence.is_minisocket => {
            format!(", it ends by itself in {}", Moving::Shrinks(expires))
        }
        _ if case.is_orphaned() => ", the kernel ends it by itself".to_owned(),
        _ => String::new(),
    };
    let received = case.evidence.info.map(|info| info.last_data_received);
    let mut parts = vec![format!(
        "the peer acknowledged this side's FIN {ago} and has not closed its own side; \
         {holding}{end}"
    )];
    parts.extend(lately(case, received, "data last arrived"));
    parts.join("; ")
}

/// The last sign that data gets through to the peer.
fn progress(case: &Case<'_>) -> Option<String> {
    let what = if case.evidence.is_retransmitting() {
        "the peer last answered"
    } else {
        "data was last sent"
    };
    lately(case, case.evidence.last_progress(), what)
}

/// Data that moved after the state was entered, as far as its age is known.
fn lately(case: &Case<'_>, span: Option<Duration>, what: &str) -> Option<String> {
    let span = span.filter(|span| span.saturating_add(SAME_TIME) < case.age.span)?;
    Some(format!("{what} {} ago", Moving::Grows(span)))
}

/// For the states that follow the end of its own side.
fn holding(case: &Case<'_>) -> &'static str {
    if case.is_orphaned() {
        "no process holds the socket"
    } else if case.owners.is_empty() {
        NO_DESCRIPTOR
    } else {
        "a process called shutdown() and still holds the socket"
    }
}

fn outstanding(case: &Case<'_>) -> String {
    let tail = unanswered(case.evidence);
    let bytes = match case.evidence.unacked_bytes() {
        0 => return format!("the peer has not acknowledged the FIN{tail}"),
        bytes => Bytes(bytes.into()),
    };
    let progress = progress(case).map_or_else(String::new, |progress| format!("; {progress}"));
    format!("the peer has not acknowledged {bytes} and the FIN{tail}{progress}")
}

/// How the peer fails to answer, as the continuation of a sentence; empty where nothing tells.
fn unanswered(evidence: &Evidence) -> String {
    let times = match evidence.retransmits {
        1 => "once".to_owned(),
        many => format!("{many} times"),
    };
    let tries = match evidence.timer {
        Timer::Retransmit(_) if evidence.retransmits > 0 => format!("; retransmitted {times}"),
        Timer::Probe(_) if evidence.retransmits > 0 => {
            format!("; probed {times} without an answer")
        }
        _ => String::new(),
    };
    match evidence.timer {
        _ if is_unread(evidence) => {
            format!("; the peer's window is 0: its application does not read{tries}")
        }
        Timer::Probe(_) if has_zero_window(evidence) => {
            format!("; the peer's window was 0 when it last answered{tries}")
        }
        _ => tries,
    }
}

fn has_zero_window(evidence: &Evidence) -> bool {
    evidence.info.and_then(|info| info.peer_window) == Some(0)
}

/// The peer is there and has had no room for a while: it answered a probe, long after the last data.
fn is_unread(evidence: &Evidence) -> bool {
    let is_answered = evidence.retransmits <= 1
        && evidence.info.is_some_and(|info| {
            info.last_data_sent >= SLOW_READ
                && info.last_ack_received.saturating_add(SAME_TIME) < info.last_data_sent
        });
    matches!(evidence.timer, Timer::Probe(_)) && has_zero_window(evidence) && is_answered
}

/// Advice for a FIN without an acknowledgement.
fn unacknowledged(case: &Case<'_>, capture: &str, listed: &str) -> String {
    let evidence = case.evidence;
    let remote = evidence.remote;
    let is_draining = evidence.unacked_bytes() > 0 && !evidence.is_retransmitting();
    let look = if is_unread(evidence) {
        format!("check the application at {remote}, which does not read the data sent to it")
    } else if is_draining && case.idle() < case.ages.warning {
        "nothing while data still moves: the peer reads slowly, or the path to it is slow"
            .to_owned()
    } else {
        format!("check the host of {remote} and the path there and back: {capture}")
    };
    if case.is_orphaned() {
        format!("{look}; {}", end_of_orphan(case))
    } else {
        let holder = look_into(case, "no process was found that holds it");
        format!("{listed}; {look}; TCP_USER_TIMEOUT limits the wait: {holder}")
    }
}

/// When the kernel gives an orphan up: `tcp_write_timeout()`, or `tcp_probe_timer()` where the peer
/// answers and has no room (`net/ipv4/tcp_timer.c`, Linux 6.18).
fn end_of_orphan(case: &Case<'_>) -> String {
    if is_unread(case.evidence) {
        let longest = Span(case.limits.rto_max);
        format!(
            "the kernel drops an orphan once the time between two probes has grown to {longest}"
        )
    } else {
        let timeout = Span(orphan_timeout(case.limits));
        format!("without an answer the kernel drops an orphan at the first retry after {timeout}")
    }
}

fn capture(evidence: &Evidence, enter: &str) -> String {
    let remote = evidence.remote;
    let (host, port) = (remote.ip().to_canonical(), remote.port());
    format!("`{enter}tcpdump -ni any host {host} and tcp port {port}`")
}

/// Where to look for the code that holds the socket, or its listener.
fn look_into(case: &Case<'_>, without: &str) -> String {
    let Some((Owner { process, fd }, others)) = case.owners.split_first() else {
        return without.to_owned();
    };
    let pid = process.pid;
    let first = match fd {
        Some(fd) => format!("pid {pid}, descriptor {fd}"),
        None => format!("pid {pid}"),
    };
    let others = match others.len() {
        0 => String::new(),
        _ if case.is_unaccepted => String::new(),
        1 => ", and one more descriptor".to_owned(),
        more => format!(", and {more} more descriptors"),
    };
    format!("{first}{others} (`cat /proc/{pid}/task/*/stack` shows where its threads wait)")
}

/// When the state was entered.
fn ago(age: Age) -> String {
    let span = Moving::Grows(age.span);
    match age.is_lower_bound {
        true if age.span.is_zero() => "at an unknown time".to_owned(),
        true => format!("at least {span} ago"),
        false => format!("{span} ago"),
    }
}

fn are(bytes: u32) -> String {
    let verb = if bytes == 1 { "is" } else { "are" };
    format!("{} {verb}", Bytes(bytes.into()))
}

#[cfg(test)]
mod tests;
