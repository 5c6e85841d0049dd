//! One real S3 server: versitygw 1.8.0 over a folder, on loopback or at another address of this machine. Its conditional
//! writes are atomic.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::{Cache, run_logged};
use crate::error::TestbedError;
use crate::kafka::{removing_on_failure, temporary_folder};
use crate::port;
use crate::process::{ProcessKey, Server, Warden};
use crate::tool;

const VERSION: &str = "versitygw-1.8.0";
const MODULE: &str = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";
const LOG: &str = "s3.log";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// An S3 server that this process started.
#[derive(Debug)]
pub struct S3 {
    folder: PathBuf,
    remove_folder: bool,
    program: PathBuf,
    host: Ipv4Addr,
    port: u16,
    server: Option<Server>,
    warden: Option<Warden>,
}

impl S3 {
    /// The access key id of the server.
    pub const ACCESS_KEY_ID: &str = "testbed";
    /// The secret key of the server: it holds test data only, and listens where no other machine comes.
    pub const SECRET_ACCESS_KEY: &str = "testbed-secret";
    /// A bucket that every server has.
    pub const BUCKET: &str = "highwater";
    /// The region that requests are signed for.
    pub const REGION: &str = "us-east-1";

    /// Starts a server with its data in `folder`. It ends with the handle or the process.
    ///
    /// # Errors
    /// `Missing` without Go, before the first build; `Step` when the server does not start.
    pub fn start(folder: &Path) -> Result<Self, TestbedError> {
        let mut server = Self::prepare(Ipv4Addr::LOCALHOST, folder, &Cache::of_user()?)?;
        server.run_first()?;
        server.watch()?;
        Ok(server)
    }

    /// Starts a server in a temporary folder of its own, removed with it.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub fn start_temporary() -> Result<Self, TestbedError> {
        Self::start_temporary_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`S3::start_temporary`], but listening at `host`, an address of this machine that others reach.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub fn start_temporary_at(host: Ipv4Addr) -> Result<Self, TestbedError> {
        let folder = temporary_folder("s3")?;
        let prepared = Self::prepare(host, &folder, &Cache::of_user()?);
        let mut server = removing_on_failure(&folder, prepared)?;
        server.remove_folder = true;
        server.run_first()?;
        server.watch()?;
        Ok(server)
    }

    /// Builds what a start needs: one that follows needs no way to other machines.
    ///
    /// # Errors
    /// `Missing` without Go, before the first build; `Step` when it cannot be built.
    pub fn prefetch() -> Result<(), TestbedError> {
        Cache::of_user()?.folder(VERSION, build).map(drop)
    }

    /// Starts a server that stays after this process. The caller keeps its key to stop it.
    pub(crate) fn start_resident(
        folder: &Path,
        cache: &Cache,
    ) -> Result<(ProcessKey, String), TestbedError> {
        let mut s3 = Self::prepare(Ipv4Addr::LOCALHOST, folder, cache)?;
        s3.run_first()?;
        let key = s3
            .key()
            .ok_or_else(|| TestbedError::State("the server is gone".to_owned()))?;
        // The handle ends here and the server stays: nobody watches it.
        s3.server = None;
        Ok((key, s3.endpoint()))
    }

    /// Address for clients, such as `http://127.0.0.1:18123`.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// The server process, while it runs.
    pub fn key(&self) -> Option<ProcessKey> {
        self.server.as_ref().map(Server::key)
    }

    /// Stops the server; data stays for [`S3::restart`].
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop(&mut self) -> Result<(), TestbedError> {
        self.unwatch()?;
        match self.server.take() {
            Some(mut server) => server.stop(STOP_PATIENCE),
            None => Ok(()),
        }
    }

    /// Ends the server with `kill -9`; data stays for [`S3::restart`].
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<(), TestbedError> {
        self.unwatch()?;
        match self.server.take() {
            Some(mut server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Starts the server again on the same port and data.
    ///
    /// # Errors
    /// `Step` when it does not get ready.
    pub fn restart(&mut self) -> Result<(), TestbedError> {
        if self.server.is_some() {
            self.stop()?;
        }
        self.run()?;
        self.watch()
    }

    fn prepare(host: Ipv4Addr, folder: &Path, cache: &Cache) -> Result<Self, TestbedError> {
        let program = cache.folder(VERSION, build)?.join("versitygw");
        // A bucket is a folder of the server's root.
        let bucket = folder.join("data").join(Self::BUCKET);
        fs::create_dir_all(&bucket).map_err(TestbedError::io("create", &bucket))?;
        Ok(Self {
            folder: folder.to_owned(),
            remove_folder: false,
            program,
            host,
            port: port::free()?,
            server: None,
            warden: None,
        })
    }

    /// The first start: on another port when somebody else was faster to take it.
    fn run_first(&mut self) -> Result<(), TestbedError> {
        for _ in 1..port::TRIES {
            match self.run() {
                Err(TestbedError::Step { .. }) if port::was_taken(&self.folder.join(LOG)) => {
                    self.port = port::free()?;
                }
                other => return other,
            }
        }
        self.run()
    }

    fn run(&mut self) -> Result<(), TestbedError> {
        let mut command = Command::new(&self.program);
        command
            .arg("--port")
            .arg(format!("{}:{}", self.host, self.port));
        command
            .args(["--region", Self::REGION, "posix"])
            .arg(self.folder.join("data"));
        command.env("ROOT_ACCESS_KEY", Self::ACCESS_KEY_ID);
        command.env("ROOT_SECRET_KEY", Self::SECRET_ACCESS_KEY);
        let mut server = Server::start(&mut command, &self.folder.join(LOG))?;
        let at = (self.host, self.port);
        let ready = server.wait_ready("start of the S3 server", START_PATIENCE, || {
            TcpStream::connect(at).is_ok()
        });
        if ready.is_err() {
            server.kill()?;
        }
        ready?;
        self.server = Some(server);
        Ok(())
    }

    fn watch(&mut self) -> Result<(), TestbedError> {
        let folder = self.remove_folder.then_some(self.folder.as_path());
        self.warden = match self.key() {
            Some(key) => Some(Warden::over(key, folder)?),
            None => None,
        };
        Ok(())
    }

    fn unwatch(&mut self) -> Result<(), TestbedError> {
        self.warden.take().map_or(Ok(()), Warden::dismiss)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // A failure while cleaning up must not hide the failure of the test itself.
        drop(self.kill());
        if self.remove_folder {
            drop(fs::remove_dir_all(&self.folder));
        }
    }
}

fn build(staging: &Path) -> Result<(), TestbedError> {
    tool::go()?;
    let mut command = Command::new("go");
    command.args(["install", MODULE]).env("GOBIN", staging);
    run_logged(
        "build of the S3 server with Go",
        &mut command,
        &staging.join("build.log"),
    )
}
