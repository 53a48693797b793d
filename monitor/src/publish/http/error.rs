//! Why the HTTP server cannot start, or why a file that changed is not taken over.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error as ThisError;

use crate::output::Escaped;
use crate::publish::files;

#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(
        "cannot listen on {address}: it is in use by another process or another of these \
         addresses (ss -ltnp 'sport = {port}' shows which); stop that, or use --listen with \
         another address or off",
        port = address.port()
    )]
    InUse { address: SocketAddr },
    #[error(
        "cannot listen on {address}: this host has no such address (ip address lists them); give \
         another with --listen ADDRESS"
    )]
    NoSuchAddress { address: SocketAddr },
    #[error(
        "cannot listen on {address}: not permitted; give a port of 1024 or above with --listen \
         ADDRESS, or run with CAP_NET_BIND_SERVICE"
    )]
    NotPermitted { address: SocketAddr },
    #[error("cannot listen on {address}: {reason}; give another address with --listen ADDRESS")]
    Listen {
        address: SocketAddr,
        reason: io::Error,
    },
    #[error(
        "cannot read {} as {role}: {reason}; make it a readable file, or name another in [http]",
        Escaped(&path.to_string_lossy())
    )]
    Unreadable {
        role: &'static str,
        path: PathBuf,
        reason: io::Error,
    },
    #[error(
        "no token in {path}: {what}; write one with (umask 077; openssl rand -hex 32 > {path})",
        path = Escaped(&path.to_string_lossy())
    )]
    Token { path: PathBuf, what: &'static str },
    #[error(
        "no certificate in {}: {what}; set tls_certificate to a PEM file with the chain, the \
         server's certificate first",
        Escaped(&path.to_string_lossy())
    )]
    Certificate { path: PathBuf, what: String },
    #[error(
        "no private key in {}: {what}; set tls_key to the PEM file of the certificate's key, \
         without a passphrase",
        Escaped(&path.to_string_lossy())
    )]
    Key { path: PathBuf, what: String },
    #[error(
        "cannot use the certificate {} with the key {}: {reason}; set tls_certificate and tls_key \
         to a pair that belongs together",
        Escaped(&certificate.to_string_lossy()),
        Escaped(&key.to_string_lossy())
    )]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
    #[error("cannot start the thread for HTTP: {0}; is there a limit on threads or descriptors?")]
    Thread(#[from] io::Error),
}

impl Error {
    /// The bytes of a file that is needed as `role`.
    pub(super) fn reading(
        path: &Path,
        role: &'static str,
        is_secret: bool,
    ) -> Result<Vec<u8>, Self> {
        files::read(path, is_secret.then_some(role)).map_err(|reason| Self::Unreadable {
            role,
            path: path.to_owned(),
            reason,
        })
    }

    pub(super) fn listening(address: SocketAddr, errno: Errno) -> Self {
        match errno {
            Errno::ADDRINUSE => Self::InUse { address },
            Errno::ADDRNOTAVAIL => Self::NoSuchAddress { address },
            Errno::ACCESS | Errno::PERM => Self::NotPermitted { address },
            errno => Self::Listen {
                address,
                reason: errno.into(),
            },
        }
    }
}
