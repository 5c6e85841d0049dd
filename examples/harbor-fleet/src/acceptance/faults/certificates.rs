//! The certificates of a run: files that each process reads again when they change.
//!
//! The rule: a file is whole or not there, as where a secret is mounted: it is written beside and put in place.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use highwater_tls::testing::Authority;

use super::machine::Machine;

/// The name that the certificates of all processes have.
const PEER_NAME: &str = "fleet.job";
/// A file of certificates of authorities, one of a certificate, and one of its key.
const FILES: [&str; 3] = ["authority.pem", "certificate.pem", "key.pem"];

/// An authority, and where what it signs lies.
pub(super) struct Certificates {
    authority: Authority,
    folder: PathBuf,
}

impl Certificates {
    /// A new authority, for files below `folder`.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            authority: Authority::new(),
            folder,
        }
    }

    fn folder_of(&self, machine: Machine) -> PathBuf {
        self.folder.join(machine.to_string())
    }

    /// The arguments that name the files of a machine.
    pub(super) fn arguments(&self, machine: Machine) -> Vec<String> {
        let file = |name: &str| self.folder_of(machine).join(name).display().to_string();
        let flags = ["--tls-authority", "--tls-certificate", "--tls-key"];
        let files = flags
            .into_iter()
            .zip(FILES)
            .flat_map(|(flag, name)| [flag.to_owned(), file(name)]);
        files
            .chain(["--tls-peer-name".to_owned(), PEER_NAME.to_owned()])
            .collect()
    }

    /// The certificate of the authority.
    fn own(&self) -> anyhow::Result<String> {
        let file = self.authority.folder().join(FILES[0]);
        fs::read_to_string(file).context("the certificate of an authority")
    }

    /// Has a machine accept whoever has a certificate of this authority, or of an older one.
    pub(super) fn trust(&self, machine: Machine, older: Option<&Self>) -> anyhow::Result<()> {
        let mut text = self.own()?;
        if let Some(older) = older {
            text += &older.own()?;
        }
        put(&self.folder_of(machine).join(FILES[0]), &text)
    }

    /// Gives a machine a certificate of this authority. What was there is gone.
    pub(super) fn sign(&self, machine: Machine) -> anyhow::Result<()> {
        let signed = self.authority.sign(&machine.to_string(), PEER_NAME);
        for (from, to) in [(&signed.certificate, FILES[1]), (&signed.key, FILES[2])] {
            let text = fs::read_to_string(from).context("a certificate that was signed")?;
            put(&self.folder_of(machine).join(to), &text)?;
        }
        Ok(())
    }

    /// Gives a machine all that it needs.
    pub(super) fn equip(&self, machine: Machine) -> anyhow::Result<()> {
        fs::create_dir_all(self.folder_of(machine)).context("a folder of certificates")?;
        self.trust(machine, None)?;
        self.sign(machine)
    }
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, path));
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_equipped_and_comes_to_trust_two_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::Worker(1);
        let first = Certificates::new(folder.path().to_owned());
        first.equip(machine).unwrap();
        let said = first.arguments(machine);
        assert_eq!(said.len(), 8, "{said:?}");
        let mut files = said.iter().skip(1).step_by(2).take(3);
        assert!(files.all(|file| Path::new(file).is_file()), "{said:?}");
        let authorities = || {
            let text = fs::read_to_string(folder.path().join("w1/authority.pem")).unwrap();
            text.matches("BEGIN CERTIFICATE").count()
        };
        assert_eq!(authorities(), 1);
        let second = Certificates::new(folder.path().to_owned());
        second.trust(machine, Some(&first)).unwrap();
        assert_eq!(authorities(), 2);
        second.trust(machine, None).unwrap();
        assert_eq!(authorities(), 1);
    }
}
