//! What the routes share, and the answers of one sample: each is written once, however many ask.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::body::Bytes;
use tokio::sync::watch;

use crate::output::json::api;
use crate::output::metrics::{self, Exposed, Form};
use crate::publish::history::STEP;
use crate::publish::shared::Shared;
use crate::track::Sample;

pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    /// Name of the node.
    host: String,
    answers: Mutex<Answers>,
    /// Turns true when the daemon ends.
    pub(super) stop: watch::Receiver<bool>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Metrics(Form),
    Status,
    /// The same, as an event.
    StatusEvent,
    Stuck,
    Ports,
    Owners,
    History,
}

/// What was written of one sample.
#[derive(Default)]
struct Answers {
    sample: Option<Arc<Sample>>,
    written: Vec<(Asked, Bytes)>,
}

impl Site {
    pub(super) fn new(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Self {
        let uname = rustix::system::uname();
        Self {
            shared,
            host: uname.nodename().to_string_lossy().into_owned(),
            answers: Mutex::default(),
            stop,
        }
    }

    /// The answer from the latest sample; None before the first.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn answer(&self, asked: Asked) -> io::Result<Option<Bytes>> {
        let Some(sample) = self.shared.latest() else {
            return Ok(None);
        };
        let mut answers = lock(&self.answers);
        let is_same = |last: &Arc<Sample>| Arc::ptr_eq(last, &sample);
        if !answers.sample.as_ref().is_some_and(is_same) {
            answers.written.clear();
            answers.sample = Some(Arc::clone(&sample));
        }
        let mut written = answers.written.iter();
        if let Some((_, bytes)) = written.find(|(written, _)| *written == asked) {
            return Ok(Some(bytes.clone()));
        }
        let bytes = Bytes::from(self.write(asked, &sample)?);
        answers.written.push((asked, bytes.clone()));
        Ok(Some(bytes))
    }

    fn write(&self, asked: Asked, sample: &Sample) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match asked {
            Asked::Metrics(form) => return Ok(self.expose(form, sample)),
            Asked::Status => {
                api::write_status(&mut out, sample, self.shared.recent(sample), &self.host)
            }
            Asked::StatusEvent => {
                let recent = self.shared.recent(sample);
                let write = |out: &mut Vec<u8>| api::write_status(out, sample, recent, &self.host);
                return event("status", write);
            }
            Asked::Stuck => api::write_stuck(&mut out, sample),
            Asked::Ports => api::write_ports(&mut out, sample),
            Asked::Owners => api::write_owners(&mut out, sample),
            Asked::History => {
                let counts = self.shared.history();
                api::write_history(&mut out, sample, STEP, &counts)
            }
        }?;
        Ok(out)
    }

    fn expose(&self, form: Form, sample: &Sample) -> Vec<u8> {
        let tallies = &self.shared.tallies;
        let outlets = tallies.outlets();
        let start = Instant::now();
        let exposition = metrics::encode(
            form,
            Exposed {
                sample,
                outlets: &outlets,
            },
        );
        tallies.note_exposition(start.elapsed(), exposition.len());
        exposition
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event whose data is the line that `write` writes.
///
/// # Errors
/// Those of `write`.
pub(super) fn event(
    name: &str,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut event = format!("event: {name}\ndata: ").into_bytes();
    write(&mut event)?;
    event.push(b'\n');
    Ok(event)
}
