//! The program under test, started as its users start it: a gateway, `up`, `exec`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde_json::json;

use crate::caller::Caller;
use crate::command::Invocation;
use crate::hosts;
use crate::machine::Machine;
use crate::peers::Echo;
use crate::process::Process;
use crate::scene::{Certificate, Scene};
use crate::wait;

/// One service of a catalog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    name: String,
    namespace: String,
    ports: Vec<(u16, &'static str, String)>,
}

impl Service {
    /// A service with one port, `name.namespace:port`, whose connections go to `target`.
    pub fn new(name: &str, namespace: &str, port: u16, target: SocketAddr) -> Service {
        Service {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ports: vec![(port, "tcp", target.to_string())],
        }
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, port: u16, target: SocketAddr) -> Service {
        self.ports.push((port, "tcp", target.to_string()));
        self
    }

    /// Adds a UDP port.
    #[must_use]
    pub fn udp_port(mut self, port: u16, target: SocketAddr) -> Service {
        self.ports.push((port, "udp", target.to_string()));
        self
    }

    /// The service as the wire protocol writes it (docs/protocol.md, section 8).
    pub(crate) fn json(&self) -> serde_json::Value {
        let ports = self.ports.iter();
        let ports = ports
            .map(|(port, protocol, target)| json!({"port": port, "protocol": protocol, "target": target}));
        json!({"id": format!("{}.{}", self.name, self.namespace), "ports": ports.collect::<Vec<_>>()})
    }
}

/// A gateway's catalog file.
#[derive(Debug, Clone)]
pub struct CatalogFile {
    path: PathBuf,
    environment: String,
}

impl CatalogFile {
    pub(crate) fn new(scene: &Scene, environment: &str, services: &[Service]) -> crate::Result<CatalogFile> {
        let name = format!("catalog-{}.yaml", scene.unique());
        let path = scene.write(&name, render(environment, services))?;
        Ok(CatalogFile {
            path,
            environment: environment.to_owned(),
        })
    }

    /// A second catalog file in `scene`, for an environment of that name.
    pub fn of_environment(
        scene: &Scene,
        environment: &str,
        services: &[Service],
    ) -> crate::Result<CatalogFile> {
        CatalogFile::new(scene, environment, services)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The environment that the file describes.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// Overwrites the file in place with these services.
    pub fn edit_in_place(&self, services: &[Service]) -> crate::Result {
        Ok(std::fs::write(&self.path, render(&self.environment, services))?)
    }

    /// Overwrites the file in place with this text, valid or not.
    pub fn spoil(&self, text: &str) -> crate::Result {
        Ok(std::fs::write(&self.path, text)?)
    }

    /// Replaces the file with a new one with these services by a rename, as editors do.
    pub fn replace(&self, services: &[Service]) -> crate::Result {
        self.rename_over(services, None)
    }

    /// Like [`replace`](CatalogFile::replace), but with a file that is older than the one it replaces, as `cp -p`, `tar` or a
    /// rolled-back checkout leave it.
    pub fn replace_by_older(&self, services: &[Service]) -> crate::Result {
        self.rename_over(
            services,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)),
        )
    }

    fn rename_over(&self, services: &[Service], modified: Option<SystemTime>) -> crate::Result {
        let new = self.path.with_extension("new");
        std::fs::write(&new, render(&self.environment, services))?;
        if let Some(time) = modified {
            File::options().write(true).open(&new)?.set_modified(time)?;
        }
        Ok(std::fs::rename(&new, &self.path)?)
    }
}

fn render(environment: &str, services: &[Service]) -> String {
    let mut text = format!(
        "environment: {environment}\nservices:{}\n",
        if services.is_empty() { " []" } else { "" }
    );
    for service in services {
        let ports: Vec<String> = service
            .ports
            .iter()
            .map(|(port, protocol, target)| {
                let name = if *protocol == "tcp" { "p" } else { "u" };
                format!("{{name: {name}{port}, port: {port}, protocol: {protocol}, target: \"{target}\"}}")
            })
            .collect();
        // Writing to a string cannot fail.
        writeln!(
            text,
            "  - name: {}\n    namespace: {}\n    ports: [{}]",
            service.name,
            service.namespace,
            ports.join(", ")
        )
        .ok();
    }
    text
}

/// A running `devbox gateway serve`.
#[derive(Debug)]
pub struct Gateway<'a> {
    scene: &'a Scene,
    process: Option<Process>,
    catalog: CatalogFile,
    listen: SocketAddr,
    /// What its command has beside the usual arguments.
    arguments: Vec<OsString>,
    scheme: &'static str,
    /// Where it has TLS.
    certificate: Option<Certificate>,
}

/// The token that a gateway of the tests accepts.
pub const TOKEN: &str = "correct-horse-battery-staple";

impl<'a> Gateway<'a> {
    /// Starts one for `catalog` on an address of the scene, and waits until it accepts connections. It runs as
    /// [`Caller::Ordinary`], since the far side needs no privileges.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(scene: &'a Scene, catalog: &CatalogFile) -> crate::Result<Gateway<'a>> {
        Gateway::start_with(scene, catalog, Vec::new())
    }

    /// As [`start`](Gateway::start), with more arguments.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_with(
        scene: &'a Scene,
        catalog: &CatalogFile,
        arguments: Vec<OsString>,
    ) -> crate::Result<Gateway<'a>> {
        let listen = scene.free_address()?;
        let mut gateway = Gateway {
            scene,
            process: None,
            catalog: catalog.clone(),
            listen,
            arguments,
            scheme: "ws",
            certificate: None,
        };
        gateway.start_again()?;
        Ok(gateway)
    }

    /// As [`start`](Gateway::start), with TLS: it listens over TCP and QUIC at one port, and its clients come as `scheme` says, which is
    /// `wss` or `quic`.
    ///
    /// # Errors
    /// [`Skip`](crate::Skip) without openssl(1); if it does not come up.
    pub fn over_tls(
        scene: &'a Scene,
        catalog: &CatalogFile,
        scheme: &'static str,
    ) -> crate::Result<Gateway<'a>> {
        let listen = scene.free_address()?;
        let certificate = scene.certificate()?;
        let arguments = [
            "--quic".into(),
            listen.to_string().into(),
            "--tls-cert".into(),
            certificate.certificate.clone().into(),
            "--tls-key".into(),
            certificate.key.clone().into(),
        ];
        let mut gateway = Gateway {
            scene,
            process: None,
            catalog: catalog.clone(),
            listen,
            arguments: arguments.into(),
            scheme,
            certificate: Some(certificate),
        };
        gateway.start_again()?;
        Ok(gateway)
    }

    /// Starts one whose only service is `echo.demo` at `port`.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn of_echo(scene: &'a Scene, echo: &Echo, port: u16) -> crate::Result<Gateway<'a>> {
        let catalog = scene.catalog(&[Service::new("echo", "demo", port, echo.address())])?;
        Gateway::start(scene, &catalog)
    }

    /// Starts it again on the same address after [`kill`](Gateway::kill).
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_again(&mut self) -> crate::Result {
        let tokens = self
            .scene
            .write_secret("gateway-tokens", format!("{TOKEN}\n"), Caller::Ordinary)?;
        let process = self
            .scene
            .devbox(["gateway", "serve"])?
            .args([OsString::from("--catalog"), self.catalog.path().into()])
            .args(["--listen".to_owned(), self.listen.to_string()])
            .args([OsString::from("--token-file"), tokens.into()])
            .args(&self.arguments)
            .by(Caller::Ordinary)
            .start()?;
        let mut process = process.stop_with(crate::Signal::TERM);
        wait::until_ok("a gateway that accepts connections", wait::SOON, || {
            if let Some(exit) = process.ended()? {
                anyhow::bail!("the gateway ended with {exit}");
            }
            Ok(TcpStream::connect_timeout(&self.listen, Duration::from_secs(1))?)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it with signal 9.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> crate::Result {
        let mut process = self.process.take().context("the gateway is not running")?;
        process.signal(crate::Signal::KILL)?;
        process.wait(wait::SOON)?;
        Ok(())
    }

    /// Asks it to stop, and starts the next one on the same address as soon as that is free. The former one may still be
    /// draining then; its end is awaited last.
    ///
    /// # Errors
    /// If it is not running, does not end well, or the next one does not come up.
    pub fn replace(&mut self) -> crate::Result {
        let mut former = self.process.take().context("the gateway is not running")?;
        former.signal(crate::Signal::TERM)?;
        wait::until("the gateway's address", wait::SOON, || {
            TcpStream::connect_timeout(&self.listen, Duration::from_secs(1))
                .is_err()
                .then_some(())
        })?;
        self.start_again()?;
        let exit = former.wait(wait::SOON)?;
        anyhow::ensure!(
            exit == crate::Exit::Code(0),
            "the former gateway ended with {exit}"
        );
        Ok(())
    }

    /// The running process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn process(&self) -> crate::Result<&Process> {
        self.process.as_ref().context("the gateway is not running")
    }

    /// The scene that it runs in.
    pub fn scene(&self) -> &'a Scene {
        self.scene
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Its URL for the client's flag.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.listen)
    }

    /// Its catalog file.
    pub fn catalog(&self) -> &CatalogFile {
        &self.catalog
    }

    /// A file with the right token that only `caller` may read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn token_file(&self, caller: Caller) -> crate::Result<PathBuf> {
        let path = self.scene.folder().join(format!("token-{}", caller.uid()));
        if path.exists() {
            return Ok(path);
        }
        self.scene
            .write_secret(&format!("token-{}", caller.uid()), format!("{TOKEN}\n"), caller)
    }

    /// `--gateway … --token-file … --env …`, for `caller`.
    ///
    /// # Errors
    /// If the token file cannot be written.
    pub fn flags(&self, caller: Caller) -> crate::Result<Vec<OsString>> {
        let mut flags = vec![
            "--gateway".into(),
            self.url().into(),
            "--token-file".into(),
            self.token_file(caller)?.into(),
            "--env".into(),
            self.catalog.environment().into(),
        ];
        if let Some(certificate) = &self.certificate {
            flags.extend(["--tls-ca".into(), certificate.certificate.clone().into()]);
        }
        Ok(flags)
    }

    /// `devbox VERB --gateway … --token-file … --env …`, as `caller`, to complete and run.
    ///
    /// # Errors
    /// If the token file cannot be written.
    pub fn devbox(&self, verb: &str, caller: Caller) -> crate::Result<Invocation<'a>> {
        Ok(self.scene.devbox([verb])?.args(self.flags(caller)?).by(caller))
    }

    /// `devbox exec … -- COMMAND`, as `caller`.
    ///
    /// # Errors
    /// If the token file cannot be written.
    pub fn exec<I, S>(&self, caller: Caller, command: I) -> crate::Result<Exec<'a>>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Ok(self.devbox("exec", caller)?.args(["--"]).args(command))
    }
}

/// A `devbox exec` to run.
pub type Exec<'a> = Invocation<'a>;

/// How `devbox up` is started.
#[derive(Debug, Clone)]
#[must_use]
pub struct UpOptions<'m> {
    caller: Caller,
    hosts: Option<PathBuf>,
    machine: Option<&'m Machine>,
    arguments: Vec<OsString>,
    sudo: bool,
    output_unread: bool,
    by_way_of: Option<SocketAddr>,
}

impl<'m> UpOptions<'m> {
    /// As `caller`, with its own hosts file.
    pub fn new(caller: Caller) -> UpOptions<'m> {
        UpOptions {
            caller,
            hosts: None,
            machine: None,
            arguments: Vec::new(),
            sudo: false,
            output_unread: false,
            by_way_of: None,
        }
    }

    /// With this hosts file.
    pub fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// Inside `machine`, with its `/etc/hosts`, and no `--hosts-file`.
    pub fn inside(mut self, machine: &'m Machine) -> Self {
        self.machine = Some(machine);
        self
    }

    /// With more arguments.
    pub fn arguments<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Through `sudo`, which must not ask for a password. The caller is still the user who calls it.
    pub fn sudo(mut self) -> Self {
        self.sudo = true;
        self
    }

    /// With an output that nobody reads.
    pub fn output_unread(mut self) -> Self {
        self.output_unread = true;
        self
    }

    /// To what is in front of the gateway, such as a reverse proxy, in place of the gateway itself.
    pub fn by_way_of(mut self, front: SocketAddr) -> Self {
        self.by_way_of = Some(front);
        self
    }
}

/// A running `devbox up`.
#[derive(Debug)]
pub struct Up<'a> {
    scene: &'a Scene,
    process: Process,
    environment: String,
    hosts: PathBuf,
    caller: Caller,
    machine: Option<&'a Machine>,
}

impl<'a> Up<'a> {
    /// Starts `devbox up` as `caller` with its own hosts file, and waits for its line `ready`.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(gateway: &Gateway<'a>, caller: Caller) -> crate::Result<Up<'a>> {
        Up::start_with(gateway, &UpOptions::new(caller))
    }

    /// Starts `devbox up` with these options, and waits for its line `ready`.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_with(gateway: &Gateway<'a>, options: &UpOptions<'a>) -> crate::Result<Up<'a>> {
        let up = Up::launch(gateway, options)?;
        up.wait_until_ready()?;
        Ok(up)
    }

    /// Like [`start_with`](Up::start_with), without waiting.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(gateway: &Gateway<'a>, options: &UpOptions<'a>) -> crate::Result<Up<'a>> {
        let mut flags = gateway.flags(options.caller)?;
        if let (Some(front), [_, url, ..]) = (options.by_way_of, flags.as_mut_slice()) {
            *url = format!("ws://{front}").into();
        }
        Up::launch_with(gateway.scene(), gateway.catalog().environment(), flags, options)
    }

    /// Starts `devbox up FLAGS`, which lead to a gateway that serves `environment`.
    pub(crate) fn launch_with(
        scene: &'a Scene,
        environment: &str,
        flags: Vec<OsString>,
        options: &UpOptions<'a>,
    ) -> crate::Result<Up<'a>> {
        let caller = options.caller;
        let mut argv: Vec<OsString> = Vec::new();
        if options.sudo {
            argv.extend(["sudo", "--non-interactive", "--"].map(OsString::from));
        }
        argv.push(scene.devbox_program()?.into());
        argv.push("up".into());
        argv.extend(flags);
        let hosts = match (&options.hosts, options.machine) {
            (Some(file), _) => file.clone(),
            (None, Some(machine)) => machine.hosts(),
            (None, None) => scene.hosts_file(caller)?,
        };
        if options.machine.is_none() || options.hosts.is_some() {
            argv.extend(["--hosts-file".into(), hosts.clone().into()]);
        }
        argv.extend(options.arguments.iter().cloned());
        let mut command = scene.command(argv).by(caller);
        if let Some(machine) = options.machine {
            command = command.inside(machine);
        }
        if options.output_unread {
            command = command.output_unread();
        }
        let process = command.start()?.stop_with(crate::Signal::TERM);
        Ok(Up {
            scene,
            process,
            environment: environment.to_owned(),
            hosts,
            caller,
            machine: options.machine,
        })
    }

    /// Waits for the line `ready`.
    ///
    /// # Errors
    /// If it does not come.
    pub fn wait_until_ready(&self) -> crate::Result {
        self.process
            .wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
                line.trim_end() == "ready"
            })?;
        Ok(())
    }

    /// The user that it runs as.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The running process.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The name of its environment.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// The hosts file that it edits.
    pub fn hosts(&self) -> &Path {
        &self.hosts
    }

    /// The address of `name` in the hosts file.
    ///
    /// # Errors
    /// If it is not in there.
    pub fn address_of(&self, name: &str) -> crate::Result<IpAddr> {
        hosts::address_of(&self.hosts, name)
    }

    /// Connects to `name` and `port`, using the address in the hosts file.
    ///
    /// # Errors
    /// If the name is missing, or nobody accepts.
    pub fn connect(&self, name: &str, port: u16) -> crate::Result<TcpStream> {
        let address = SocketAddr::new(self.address_of(name)?, port);
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connect to {name} at {address}"))?;
        stream.set_read_timeout(Some(wait::SOON))?;
        stream.set_write_timeout(Some(wait::SOON))?;
        Ok(stream)
    }

    /// A program that runs as the same caller and sees the session's names as the system's.
    pub fn client<I, S>(&self, argv: I) -> Invocation<'a>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let command = self.scene.command(argv).by(self.caller);
        match self.machine {
            Some(machine) => command.inside(machine),
            None => command.seeing_hosts(&self.hosts),
        }
    }

    /// `devbox status` for only this session's environment: the user who runs the tests may have other sessions.
    ///
    /// # Errors
    /// If the program under test does not exist.
    pub fn status(&self, arguments: &[&str]) -> crate::Result<Invocation<'a>> {
        Ok(self
            .devbox(&["status", "--env", &self.environment])?
            .args(arguments.iter().copied()))
    }

    /// `devbox down` for only this session's environment.
    ///
    /// # Errors
    /// If the program under test does not exist.
    pub fn down(&self) -> crate::Result<Invocation<'a>> {
        self.devbox(&["down", "--env", &self.environment])
    }

    /// Another subcommand, run by the same caller in the same place.
    ///
    /// # Errors
    /// If the program under test does not exist.
    pub fn devbox(&self, arguments: &[&str]) -> crate::Result<Invocation<'a>> {
        let command = self.scene.devbox(arguments.iter().copied())?.by(self.caller);
        Ok(match self.machine {
            Some(machine) => command.inside(machine),
            None => command,
        })
    }
}
