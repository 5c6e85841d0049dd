//! Certificates for tests: an authority, and what it signs, as files.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::identity::IdentityFiles;

/// An authority with a folder of its own.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for certificates");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority has no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("an authority signs itself");
        write(&folder.path().join("authority.pem"), &certificate.pem());
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    /// The folder with all that it signed.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Signs a certificate for `name` and writes it as that of `process`.
    ///
    /// # Panics
    /// When the name is none, or the folder cannot be written.
    pub fn sign(&self, process: &str, name: &str) -> IdentityFiles {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        let at = |kind: &str| self.folder.path().join(format!("{process}.{kind}.pem"));
        write(&at("certificate"), &certificate.pem());
        write(&at("key"), &key.serialize_pem());
        IdentityFiles {
            authority: self.folder.path().join("authority.pem"),
            certificate: at("certificate"),
            key: at("key"),
            peer_name: name.to_owned(),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file of certificates");
}
