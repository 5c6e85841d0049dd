//! How a connection says whose it is, before its first frame.
//!
//! The side that opened it, which is the sending one, says [`Hello`]; the other answers that it may go on, or why not.
//!
//! ```text
//! HWLINK 0 1 | length u16 | hello (postcard)        answer: 0 | 0 0,  or  1 | length u16 | reason
//! ```
//!
//! The rule: a link carries records of one attempt only. Attempt, both workers and the pass of the attempt must be what
//! the receiving worker was told by its coordinator, so that a connection of a worker that was given up, or of another job on the
//! same machine, brings nothing in.

use std::io::{Error, ErrorKind, Result};

use highwater_types::{AttemptId, Epoch, JobIdentity, Nonce, WorkerIndex};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What a link begins with: its last byte is the version of the frames behind it.
const MAGIC: [u8; 8] = *b"HWLINK\0\x01";
/// No hello and no reason is longer.
const BYTES_MAX: usize = 4_096;
const WELCOME: u8 = 0;
const REFUSED: u8 = 1;

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The job.
    pub job: JobIdentity,
    /// The leadership that deployed the attempt.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// Random bits that the coordinator gave to the workers of the attempt and to nobody else.
    pub pass: Nonce,
    /// Who sends.
    pub from: WorkerIndex,
    /// Who receives.
    pub to: WorkerIndex,
    /// How many channels there are.
    pub channels: u32,
}

/// Why a connection may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody here waits for such a link.
    #[error("no attempt here waits for this link")]
    Unknown,
    /// It is of another job.
    #[error("it is of another job")]
    Job,
    /// It is of another leadership.
    #[error("it is of another epoch")]
    Epoch,
    /// It does not have the pass of the attempt.
    #[error("it does not have the pass of the attempt")]
    Pass,
    /// Both sides count the channels differently.
    #[error("it has another number of channels; coordinator and workers must run the same program")]
    Channels,
}

impl Hello {
    /// Whether `other` is the hello of the link that this one describes.
    ///
    /// # Errors
    /// What differs.
    pub fn accepts(&self, other: &Self) -> std::result::Result<(), Refusal> {
        let same_link =
            self.attempt == other.attempt && self.from == other.from && self.to == other.to;
        match other {
            _ if self.job != other.job => Err(Refusal::Job),
            _ if self.epoch != other.epoch => Err(Refusal::Epoch),
            _ if !same_link => Err(Refusal::Unknown),
            _ if self.pass != other.pass => Err(Refusal::Pass),
            _ if self.channels != other.channels => Err(Refusal::Channels),
            _ => Ok(()),
        }
    }
}

/// Says hello and waits for the answer.
///
/// # Errors
/// `ConnectionRefused` with the reason of the peer, `InvalidData` when it answers something else, what the connection says.
pub async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hello: &Hello) -> Result<()> {
    let body = postcard::to_stdvec(hello).map_err(Error::other)?;
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&(body.len() as u16).to_le_bytes());
    message.extend_from_slice(&body);
    stream.write_all(&message).await?;
    stream.flush().await?;
    let answer = stream.read_u8().await?;
    let text = read_text(stream).await?;
    match answer {
        WELCOME => Ok(()),
        REFUSED => Err(Error::new(
            ErrorKind::ConnectionRefused,
            format!(
                "the peer refuses the link: {}",
                String::from_utf8_lossy(&text)
            ),
        )),
        other => Err(invalid(format!("the peer answers {other} to a hello"))),
    }
}

/// Reads a hello.
///
/// # Errors
/// `InvalidData` when the bytes are none, what the connection says.
pub async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic[..MAGIC.len() - 1] != MAGIC[..MAGIC.len() - 1] {
        return Err(invalid("the connection is no link of a worker".to_owned()));
    }
    if magic != MAGIC {
        let [.., theirs] = magic;
        return Err(invalid(format!(
            "the peer speaks version {theirs} of the link, this one speaks 1"
        )));
    }
    let body = read_text(stream).await?;
    postcard::from_bytes(&body)
        .map_err(|error| invalid(format!("the hello cannot be read: {error}")))
}

/// Answers a hello.
///
/// # Errors
/// What the connection says.
pub async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    refusal: Option<Refusal>,
) -> Result<()> {
    let text = refusal
        .map(|refusal| refusal.to_string())
        .unwrap_or_default();
    let mut message = vec![if refusal.is_some() { REFUSED } else { WELCOME }];
    message.extend_from_slice(&(text.len() as u16).to_le_bytes());
    message.extend_from_slice(text.as_bytes());
    stream.write_all(&message).await?;
    stream.flush().await
}

async fn read_text(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = usize::from(stream.read_u16_le().await?);
    if length > BYTES_MAX {
        return Err(invalid(format!(
            "{length} bytes are announced, {BYTES_MAX} is the most"
        )));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(text)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hello() -> Hello {
        Hello {
            job: JobIdentity::parse("job").unwrap(),
            epoch: Epoch(3),
            attempt: AttemptId(7),
            pass: Nonce(99),
            from: WorkerIndex(0),
            to: WorkerIndex(1),
            channels: 4,
        }
    }

    #[tokio::test]
    async fn a_hello_is_heard_and_answered() {
        for refusal in [None, Some(Refusal::Pass)] {
            let (mut opened, mut accepted) = tokio::io::duplex(64);
            let theirs = hello();
            let said = say(&mut opened, &theirs);
            let heard = async {
                let heard = hear(&mut accepted).await.unwrap();
                answer(&mut accepted, refusal).await.unwrap();
                heard
            };
            let (said, heard) = tokio::join!(said, heard);
            assert_eq!(heard, hello());
            let refused = said.err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), refusal.is_some());
            assert!(refused.is_none_or(|text| text.contains("pass of the attempt")));
        }
    }

    #[tokio::test]
    async fn what_is_no_hello_is_refused_by_name() {
        for (bytes, words) in [
            (&b"GET / HTTP/1.1\r\n"[..], "no link"),
            (&b"HWLINK\0\x02\0\0"[..], "version 2"),
            (&b"HWLINK\0\x01\xff\xff"[..], "most"),
            (&b"HWLINK\0\x01\x02\0\xff\xff"[..], "cannot be read"),
        ] {
            let (mut opened, mut accepted) = tokio::io::duplex(64);
            opened.write_all(bytes).await.unwrap();
            drop(opened);
            let refused = hear(&mut accepted).await.unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }

    #[test]
    fn each_difference_is_refused_by_its_name() {
        let mine = hello();
        assert_eq!(mine.accepts(&hello()), Ok(()));
        let other = |change: fn(&mut Hello)| {
            let mut other = hello();
            change(&mut other);
            mine.accepts(&other).unwrap_err()
        };
        assert_eq!(
            other(|hello| hello.job = JobIdentity::parse("other").unwrap()),
            Refusal::Job
        );
        assert_eq!(other(|hello| hello.epoch = Epoch(2)), Refusal::Epoch);
        assert_eq!(
            other(|hello| hello.attempt = AttemptId(6)),
            Refusal::Unknown
        );
        assert_eq!(other(|hello| hello.pass = Nonce(98)), Refusal::Pass);
        assert_eq!(other(|hello| hello.from = WorkerIndex(2)), Refusal::Unknown);
        assert_eq!(other(|hello| hello.channels = 5), Refusal::Channels);
    }
}
