//! TLS for the listeners: certificate and key from PEM files, TLS 1.2 and 1.3.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};

use super::{CHECK_EVERY, Error};
use crate::publish::files::Watched;

/// Who answers handshakes, with the certificate that is in the files now.
#[derive(Debug)]
pub(super) struct Tls(Watched<ServerConfig, Error>);

impl Tls {
    /// # Errors
    /// The files do not hold a certificate and the key that belongs to it.
    pub(super) fn new(certificate: &Path, key: &Path, now: Instant) -> Result<Self, Error> {
        let paths = vec![certificate.to_owned(), key.to_owned()];
        Ok(Self(Watched::open(paths, read, CHECK_EVERY, now)?))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.current(Instant::now()).into()
    }
}

/// Certificate and key, in this order.
fn read(paths: &[PathBuf]) -> Result<ServerConfig, Error> {
    let mut paths = paths.iter().map(PathBuf::as_path);
    let certificate = paths.next().unwrap_or(Path::new(""));
    let key = paths.next().unwrap_or(certificate);
    let chain = chain_in(certificate)?;
    let private = key_in(key)?;
    let unpaired = |error: tokio_rustls::rustls::Error| Error::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unpaired)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unpaired)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn chain_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = Error::reading(path, "the certificate", false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let refused = |what: String| Error::Certificate {
        path: path.to_owned(),
        what,
    };
    match found {
        Ok(chain) if chain.is_empty() => Err(refused("it is not in PEM form".to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = Error::reading(path, "the private key", true)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| Error::Key {
        path: path.to_owned(),
        what: match error {
            pem::Error::NoItemsFound => "it is not in PEM form, or it is encrypted".to_owned(),
            error => error.to_string(),
        },
    })
}
