//! Who speaks to whom over a wire, and what renews under it.

#![allow(clippy::unwrap_used, reason = "helpers of a test unwrap as tests do")]

use std::io;

use highwater_tls::testing::Authority;
use highwater_tls::{IdentityFiles, TlsError, Trust, Wire, WireStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "127.0.0.1";
const NAME: &str = "fleet.job";

/// Both ends of a connection, as far as they came.
async fn meet(server: &Wire, client: &Wire) -> (io::Result<WireStream>, io::Result<WireStream>) {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepts = async { server.accept(listener.accept().await.unwrap().0).await };
    let connects = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = client.connect(stream).await?;
        // With TLS 1.3 the refusal of a certificate comes with the first byte from the other side.
        stream.write_all(b"?").await?;
        Ok(stream)
    };
    tokio::join!(accepts, connects)
}

/// Whether a byte goes there and another comes back.
async fn speaks(server: &Wire, client: &Wire) -> bool {
    let (Ok(mut server), Ok(mut client)) = meet(server, client).await else {
        return false;
    };
    let (mut asked, mut answered) = ([0; 1], [0; 1]);
    let answers = async {
        server.read_exact(&mut asked).await?;
        server.write_all(b"!").await?;
        server.flush().await
    };
    let (there, back) = tokio::join!(answers, client.read_exact(&mut answered));
    there.is_ok() && back.is_ok() && (asked, answered) == (*b"?", *b"!")
}

fn wire(files: IdentityFiles) -> Wire {
    Wire::tls(files).unwrap()
}

#[tokio::test]
async fn two_of_one_authority_speak_and_no_two_of_different_ones() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = wire(ours.sign("server", NAME));
    assert!(speaks(&server, &wire(ours.sign("client", NAME))).await);
    let stranger = wire(theirs.sign("client", NAME));
    assert!(!speaks(&server, &stranger).await);
    assert!(!speaks(&stranger, &server).await);
    assert!(speaks(&Wire::Clear, &Wire::Clear).await);
}

#[tokio::test]
async fn who_speaks_in_the_clear_is_not_answered() {
    let ours = Authority::new();
    let server = wire(ours.sign("server", NAME));
    let (met, _) = meet(&server, &Wire::Clear).await;
    assert!(met.is_err());
}

#[tokio::test]
async fn of_one_authority_only_those_of_one_name_speak() {
    let ours = Authority::new();
    let (one, two) = (wire(ours.sign("one", NAME)), wire(ours.sign("two", NAME)));
    assert!(speaks(&one, &two).await);
    let other = wire(ours.sign("three", "harbor.job"));
    let (met, _) = meet(&one, &other).await;
    assert!(met.is_err(), "one that connects");
    let (_, reached) = meet(&other, &one).await;
    let refused = reached.unwrap_err().to_string();
    assert!(refused.contains("harbor.job"), "{refused}");
    // It claims the name that it looks for, and has another.
    let liar = IdentityFiles {
        peer_name: NAME.to_owned(),
        ..ours.sign("four", "harbor.job")
    };
    let refused = Wire::tls(liar).unwrap_err();
    assert!(matches!(refused, TlsError::Unaccepted { .. }), "{refused}");
}

#[tokio::test]
async fn certificates_are_renewed_under_a_running_process() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.sign("server", NAME);
    let server = wire(files.clone());
    let before = wire(old.sign("client", NAME));
    let (Ok(mut kept), Ok(mut other_end)) = meet(&server, &before).await else {
        panic!("they are of one authority");
    };
    let after = new.sign("client", NAME);
    assert!(!speaks(&server, &wire(after.clone())).await);
    let renewed = new.sign("server", NAME);
    // The three files change one after another: what does not fit together meanwhile is not used.
    std::fs::copy(&renewed.key, &files.key).unwrap();
    assert!(speaks(&server, &before).await, "the old ones stay in use");
    std::fs::copy(&renewed.certificate, &files.certificate).unwrap();
    std::fs::copy(&renewed.authority, &files.authority).unwrap();
    assert!(speaks(&server, &wire(after)).await);
    assert!(!speaks(&server, &before).await);
    let mut byte = [0; 1];
    kept.read_exact(&mut byte).await.unwrap();
    other_end.write_all(b"+").await.unwrap();
    kept.read_exact(&mut byte).await.unwrap();
    assert_eq!(byte, *b"+", "a connection that is there stays");
}

/// What somebody with no certificate but a trust reads from a server that takes anyone, or only its own.
async fn told(server: &Wire, trust: &Trust, takes_anyone: bool) -> io::Result<u8> {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tells = async {
        let stream = listener.accept().await.unwrap().0;
        let mut stream = if takes_anyone {
            server.accept_anyone(stream).await?
        } else {
            server.accept(stream).await?
        };
        stream.write_all(b"!").await?;
        stream.flush().await
    };
    let asks = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = trust.connect(stream).await?;
        stream.read_u8().await
    };
    let (tells, told) = tokio::join!(tells, asks);
    tells.and(told)
}

#[tokio::test]
async fn somebody_without_a_certificate_is_taken_where_anyone_is() {
    let ours = Authority::new();
    let files = ours.sign("server", NAME);
    let server = wire(files.clone());
    let trust = Trust::load(&files.authority, NAME).unwrap();
    assert_eq!(told(&server, &trust, true).await.unwrap(), b'!');
    assert!(told(&server, &trust, false).await.is_err());
    // What it is shown must be of the authority and of the name that it believes.
    let other = Trust::load(&files.authority, "harbor.job").unwrap();
    assert!(told(&server, &other, true).await.is_err());
    let theirs = Authority::new();
    let strange = Trust::load(&theirs.sign("server", NAME).authority, NAME).unwrap();
    assert!(told(&server, &strange, true).await.is_err());
}

#[tokio::test]
async fn who_takes_anyone_shows_what_was_renewed() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.sign("server", NAME);
    let server = wire(files.clone());
    let trust = Trust::load(&new.sign("any", NAME).authority, NAME).unwrap();
    assert!(told(&server, &trust, true).await.is_err());
    let renewed = new.sign("server", NAME);
    std::fs::copy(&renewed.key, &files.key).unwrap();
    std::fs::copy(&renewed.certificate, &files.certificate).unwrap();
    std::fs::copy(&renewed.authority, &files.authority).unwrap();
    assert_eq!(told(&server, &trust, true).await.unwrap(), b'!');
}

#[test]
fn files_that_are_no_identity_are_refused_by_name() {
    let ours = Authority::new();
    let files = ours.sign("one", NAME);
    let refused = |files: IdentityFiles| Wire::tls(files).unwrap_err().to_string();
    let missing = IdentityFiles {
        key: ours.folder().join("nothing.pem"),
        ..files.clone()
    };
    assert!(refused(missing).contains("nothing.pem"));
    let empty = IdentityFiles {
        authority: files.key.clone(),
        ..files.clone()
    };
    let text = refused(empty);
    assert!(
        text.contains("authority") && text.contains("no certificate"),
        "{text}"
    );
    let mixed = IdentityFiles {
        key: ours.sign("two", NAME).key,
        ..files.clone()
    };
    assert!(matches!(Wire::tls(mixed), Err(TlsError::Mismatch { .. })));
    let strange = IdentityFiles {
        authority: Authority::new().sign("any", NAME).authority,
        ..files.clone()
    };
    assert!(Wire::tls(strange).is_err());
    let nameless = IdentityFiles {
        peer_name: "bad name".to_owned(),
        ..files
    };
    assert!(refused(nameless).contains("bad name"));
}

#[test]
fn nothing_of_a_key_is_in_what_is_said_of_it() {
    let ours = Authority::new();
    let files = ours.sign("one", NAME);
    let key = std::fs::read_to_string(&files.key).unwrap();
    let secret = key.lines().nth(1).unwrap()[..16].to_owned();
    let in_numbers = format!("{:?}", &secret.as_bytes()[..8]);
    let in_numbers = in_numbers.trim_matches(['[', ']']).to_owned();
    for damaged in [
        key.replace('\n', " "),
        key.replace("-----END", "----END"),
        key.replace(&secret[..4], "!!!!"),
    ] {
        std::fs::write(&files.key, &damaged).unwrap();
        for files in [
            files.clone(),
            IdentityFiles {
                certificate: files.key.clone(),
                ..files.clone()
            },
        ] {
            let error = Wire::tls(files).unwrap_err();
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(
                    !text.contains(&secret[4..]) && !text.contains(&in_numbers),
                    "{text}"
                );
            }
        }
    }
}
