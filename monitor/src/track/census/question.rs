//! What the kernel is asked about single sockets, and what it says.

use super::Scope;
use crate::tcp::{Ends, State};
use crate::track::sockets::Socket;

/// Something to ask the kernel about one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(super) about: About,
    /// None for a request, which may have none yet.
    pub(crate) cookie: Option<u64>,
    pub(crate) ends: Ends,
}

impl Question {
    pub(super) fn about(cookie: u64, socket: &Socket) -> Self {
        Self {
            about: About::Socket,
            cookie: Some(cookie),
            ends: socket.ends.clone(),
        }
    }

    /// What a walk has to list in place of these questions.
    pub(crate) fn scope(questions: &[Self]) -> Scope {
        let scopes = questions.iter().map(|question| match question.about {
            About::Socket => Scope::ALL,
            About::Orphan => Scope::ORPHANS,
            About::Request => Scope::REQUESTS,
        });
        scopes.fold(Scope::default(), Scope::with)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A full socket.
    Socket,
    /// A minisocket in FIN_WAIT2.
    Orphan,
    Request,
}

/// What the kernel says to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Found {
        state: State,
        is_minisocket: bool,
    },
    Gone,
    /// Its ends do not tell it from others.
    Unclear,
}
