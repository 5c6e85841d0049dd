//! The output target of the file sink: stages lines and publishes them by a rename.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::lines::line_of;
use super::names::SlotDirectory;
use super::session::Session;
use crate::error::ConnectorError;
use crate::output::OutputBatch;
use crate::sink::{
    ExternalIdentity, KnownMarkers, Marker, MarkerKind, MarkerPosition, MarkerReading,
    OutputTarget, RequiredMarkers, TargetError, WriterContext,
};

const BUFFER_BYTES: usize = 128 * 1024;
/// Tells a directory from one that was put in its place.
const IDENTITY: &str = "identity";

/// A file being written in the session directory.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    file: BufWriter<File>,
}

/// One slot's door to the directory of a file sink.
///
/// Only values are written, a line each; key, partition, time and headers are left out. A value with a newline and a
/// deletion are refused.
#[derive(Debug)]
pub struct FileTarget {
    directory: PathBuf,
    slot: SlotDirectory,
    known: KnownMarkers,
    session: Option<Session>,
    staged: Option<Staged>,
}

impl FileTarget {
    /// The target of the slot that `context` names. Touches no file.
    pub fn new(directory: &Path, context: &WriterContext) -> Self {
        Self {
            directory: directory.to_owned(),
            slot: SlotDirectory::new(directory, context.lineage, &context.uid, context.subtask),
            known: KnownMarkers::default(),
            session: None,
            staged: None,
        }
    }

    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> ConnectorError {
        ConnectorError::io(self.slot.path().display(), operation)
    }

    /// The session is over when one of its paths is gone; otherwise the call may succeed later.
    fn failed(&mut self, operation: &'static str, error: io::Error) -> TargetError {
        if error.kind() == ErrorKind::NotFound {
            self.session = None;
            self.staged = None;
            return TargetError::SessionLost(ConnectorError::Fenced {
                object: self.slot.path().display().to_string(),
            });
        }
        TargetError::unclear(self.io(operation)(error))
    }

    fn closed(&self, what: &str) -> TargetError {
        TargetError::SessionLost(ConnectorError::Unavailable {
            object: self.slot.path().display().to_string(),
            reason: format!("no {what} is open"),
        })
    }

    /// The place of the markers, which is the directory itself. It is made if none is required, else it must be there: one
    /// that was put in its place holds none of what is committed.
    fn place(&self) -> Result<String, TargetError> {
        let failed = |error| {
            let failed = ConnectorError::io(self.directory.display(), "identity");
            TargetError::unclear(failed(error))
        };
        let named = |identity| format!("files/{identity}");
        let found = read_identity(&self.directory).map_err(failed)?.map(named);
        // A directory is a system of its own: where nothing is, the sink has moved to.
        let required = self
            .known
            .required_in(|| Ok(found.clone().unwrap_or_default()))?;
        match (required, found) {
            (RequiredMarkers::MayBeMade, None) => {
                let made = identity_of(&self.directory).map_err(failed)?;
                Ok(named(made))
            }
            (RequiredMarkers::MayBeMade | RequiredMarkers::Any, Some(found)) => Ok(found),
            (RequiredMarkers::This(required), Some(found)) if found == required => Ok(found),
            (_, found) => Err(TargetError::MarkerLost(ConnectorError::PositionLost {
                object: self.directory.display().to_string(),
                position: 0,
                reason: match found {
                    Some(found) => format!("it was replaced: it is {found} now"),
                    None => "it does not exist any more, and with it is gone what was committed"
                        .to_owned(),
                },
            })),
        }
    }

    /// One past the last marker of the sink: a marker stands at its number.
    fn end(&self) -> io::Result<MarkerPosition> {
        let newest = self.slot.newest_of_sink()?;
        Ok(MarkerPosition(newest.map_or(0, |newest| newest + 1)))
    }

    fn in_session(&self) -> Result<(), TargetError> {
        match self.session {
            Some(_) => Ok(()),
            None => Err(self.closed("session")),
        }
    }

    /// Makes the staged file and its name survive a loss of power, in the order that keeps them together.
    fn publish(&self, staged: Staged, marker: Marker) -> io::Result<()> {
        let Staged { path, file } = staged;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        if marker.kind == MarkerKind::Void {
            file.set_len(0)?;
        }
        file.sync_all()?;
        fs::rename(path, self.slot.published(marker))?;
        sync_directory(self.slot.path())
    }
}

impl OutputTarget for FileTarget {
    fn expect_markers(&mut self, known: KnownMarkers) {
        self.known = known;
    }

    fn identity(&mut self) -> Result<ExternalIdentity, TargetError> {
        let name = self.place()?;
        Ok(ExternalIdentity {
            system: name.clone(),
            markers: name,
            output: String::new(),
        })
    }

    fn marker_position(&mut self) -> Result<MarkerPosition, TargetError> {
        let newest = self.slot.markers();
        let newest = newest.map(|all| all.iter().map(|(marker, _)| marker.number + 1).max());
        match newest.map(|newest| MarkerPosition(newest.unwrap_or(0))) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(MarkerPosition(0)),
            end => end.map_err(|error| TargetError::unclear(self.io("listing")(error))),
        }
    }

    fn open_session(&mut self) -> Result<(), TargetError> {
        self.staged = None;
        self.session = None;
        // A session needs no identity, but what is required must be there before it makes directories.
        if self.known != KnownMarkers::Unnamed {
            self.place()?;
        }
        self.session = Some(Session::open(&self.slot).map_err(TargetError::session_lost)?);
        Ok(())
    }

    fn write_sync(&mut self) -> Result<(), TargetError> {
        self.in_session()?;
        // A file that an earlier session renamed may not be durable yet; it is, before anybody reads its marker.
        let synced = sync_directory(self.slot.path());
        synced.map_err(|error| TargetError::unclear(self.io("sync")(error)))
    }

    fn read_markers(&mut self, from: MarkerPosition) -> Result<MarkerReading, TargetError> {
        self.in_session()?;
        let place = self.identity()?.markers;
        let listed = self
            .slot
            .markers()
            .and_then(|markers| Ok((markers, self.end()?)));
        let (listed, end) =
            listed.map_err(|error| TargetError::unclear(self.io("listing")(error)))?;
        let markers = listed
            .into_iter()
            .map(|(marker, _)| (marker.number, marker.kind));
        let mut markers: Vec<_> = markers.filter(|&(number, _)| number >= from.0).collect();
        markers.sort_unstable_by_key(|&(number, _)| number);
        Ok(MarkerReading {
            place,
            // Older files may be taken away: the beginning is never missed, only the newest file is.
            start: MarkerPosition(0),
            end,
            markers,
        })
    }

    fn begin(&mut self) -> Result<(), TargetError> {
        self.staged = None;
        let Some(session) = &mut self.session else {
            return Err(self.closed("session"));
        };
        let path = session.stage();
        match File::create_new(&path) {
            Ok(file) => {
                let file = BufWriter::with_capacity(BUFFER_BYTES, file);
                self.staged = Some(Staged { path, file });
                Ok(())
            }
            Err(error) => Err(self.failed("staging", error)),
        }
    }

    fn send(&mut self, batch: &OutputBatch) -> Result<(), TargetError> {
        let object = self.slot.path().display();
        let Some(staged) = &mut self.staged else {
            return Err(self.closed("transaction"));
        };
        for record in batch.iter() {
            let value = line_of(&object, &record).map_err(TargetError::Refused)?;
            let written = staged.file.write_all(value);
            if let Err(error) = written.and_then(|()| staged.file.write_all(b"\n")) {
                return Err(self.failed("writing", error));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        let Some(staged) = &mut self.staged else {
            return Err(self.closed("transaction"));
        };
        let flushed = staged.file.flush();
        let synced = flushed.and_then(|()| staged.file.get_ref().sync_data());
        synced.map_err(|error| self.failed("sync", error))
    }

    fn commit(&mut self, marker: Marker) -> Result<MarkerPosition, TargetError> {
        let Some(staged) = self.staged.take() else {
            return Err(self.closed("transaction"));
        };
        let published = self.publish(staged, marker);
        published.map_err(|error| self.failed("publishing", error))?;
        Ok(MarkerPosition(marker.number + 1))
    }

    fn abort(&mut self) -> Result<(), TargetError> {
        let Some(Staged { path, .. }) = self.staged.take() else {
            return Ok(());
        };
        match fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("removal of a staged file", error)),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn read_identity(directory: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(directory.join(IDENTITY)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// What the directory was called when it was made: a name that a directory made later does not get.
fn identity_of(directory: &Path) -> io::Result<String> {
    if let Some(identity) = read_identity(directory)? {
        return Ok(identity);
    }
    let path = directory.join(IDENTITY);
    fs::create_dir_all(directory)?;
    let (prepared, mut file) = create_unused(directory)?;
    let made = file.metadata()?.modified()?;
    let since = made.duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or_else(
        |before| before.duration().as_nanos(),
        |since| since.as_nanos(),
    );
    write!(file, "{nanos:x}-{:x}", std::process::id())?;
    file.sync_all()?;
    // A link never replaces: of two that create the identity at once, the first one's stays.
    let linked = fs::hard_link(&prepared, &path);
    fs::remove_file(&prepared)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => sync_directory(directory)?,
    }
    fs::read_to_string(&path)
}

fn create_unused(directory: &Path) -> io::Result<(PathBuf, File)> {
    let mut at = 0u32;
    loop {
        let path = directory.join(format!("{IDENTITY}.{at}"));
        match File::create_new(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => at += 1,
            made => return made.map(|file| (path, file)),
        }
    }
}
