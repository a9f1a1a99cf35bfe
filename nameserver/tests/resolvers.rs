//! Other people's resolvers ask a real server: dig, drill, musl, glibc, Go, Java, Node.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
#[path = "support/programs.rs"]
mod programs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use nameserver::{Answering, Data, Listening, Record, Registry, Responder, Server, Zone};
use programs::{find, skip};

/// A server on its own thread, until it is dropped.
struct Serving {
    address: SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn serve(listen: &str) -> std::io::Result<Serving> {
    let listen: SocketAddr = listen.parse().unwrap();
    let (started, address) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            match Server::start(responder(), Listening::on([listen])).await {
                Ok(server) => {
                    started.send(Ok(server.addresses()[0])).unwrap();
                    // Dropped with the test.
                    drop(stopped.await);
                    server.stop().await;
                }
                Err(error) => started.send(Err(std::io::Error::other(error))).unwrap(),
            }
        });
    });
    let address = address.recv().unwrap()?;
    Ok(Serving { address, _stop: stop })
}

fn responder() -> Responder {
    let registry = Registry::default();
    let addresses =
        ["127.77.0.2", "fd00::2"].map(|address| Data::from(address.parse::<std::net::IpAddr>().unwrap()));
    let many = (0..100).map(|last| std::net::IpAddr::from([127, 77, 1, last]));
    registry.publish(
        "test",
        &[
            Record {
                names: vec!["api.devbox.test".parse().unwrap()],
                data: addresses.to_vec(),
            },
            Record::addresses("v4.devbox.test".parse().unwrap(), [[127, 77, 0, 4].into()]),
            Record::addresses("many.devbox.test".parse().unwrap(), many),
            Record {
                names: vec!["_pg._tcp.devbox.test".parse().unwrap()],
                data: vec![
                    Data::srv(0, 5, 5432, &"api.devbox.test".parse().unwrap()),
                    Data::txt(["version=3"]).unwrap(),
                ],
            },
            Record {
                names: vec!["web.devbox.test".parse().unwrap()],
                data: vec![Data::https("1 . port=8443 alpn=h2,http/1.1").unwrap()],
            },
        ],
    );
    let settings = Answering {
        zones: vec![Zone::new("devbox.test".parse().unwrap())],
        prefixes: vec!["127.77.0.0/16".parse().unwrap()],
        ..Answering::default()
    };
    Responder::new(registry, settings)
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    text
}

#[test]
fn dig() {
    let Some(dig) = find("dig") else {
        return skip("dig", "dig is not installed (bind9-dnsutils)");
    };
    let server = serve("127.0.0.1:0").unwrap();
    let port = server.address.port().to_string();
    let ask = |words: &[&str]| {
        let mut command = Command::new(&dig);
        command
            .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=10", "+nosearch"])
            .args(words);
        output(&mut command)
    };
    // With EDNS and a cookie, as it asks by itself.
    let full = ask(&["API.devbox.test"]);
    assert!(
        full.contains("status: NOERROR") && full.contains("API.devbox.test.\t5\tIN\tA\t127.77.0.2"),
        "{full}"
    );
    assert!(
        full.contains("udp: 1232") && full.contains("flags: qr aa rd; "),
        "{full}"
    );
    assert!(
        !full.contains("WARNING: Message parser") && !full.contains("malformed"),
        "{full}"
    );
    assert_eq!(ask(&["+short", "api.devbox.test", "AAAA"]), "fd00::2\n");
    assert_eq!(
        ask(&["+short", "_pg._tcp.devbox.test", "SRV"]),
        "0 5 5432 api.devbox.test.\n"
    );
    assert_eq!(
        ask(&["+short", "web.devbox.test", "HTTPS"]),
        "1 . alpn=\"h2,http/1.1\" port=8443\n"
    );
    assert_eq!(ask(&["+short", "-x", "127.77.0.4"]), "v4.devbox.test.\n");
    let nodata = ask(&["v4.devbox.test", "HTTPS"]);
    assert!(
        nodata.contains("status: NOERROR") && nodata.contains("SOA\tdevbox.test. nobody.invalid."),
        "{nodata}"
    );
    assert!(ask(&["nobody.devbox.test"]).contains("status: NXDOMAIN"));
    assert!(ask(&["example.com"]).contains("status: REFUSED"));
    assert!(ask(&["+opcode=notify", "api.devbox.test"]).contains("status: NOTIMP"));
    assert!(ask(&["+edns=1", "+noednsnegotiation", "api.devbox.test"]).contains("status: BADVERS"));
    assert!(ask(&["+ignore", "+noedns", "many.devbox.test"]).contains("flags: qr aa tc rd;"));
    // It turns to TCP by itself.
    assert_eq!(
        ask(&["+short", "+noedns", "many.devbox.test"]).lines().count(),
        100
    );
    assert_eq!(
        ask(&["+short", "+tcp", "+keepopen", "api.devbox.test", "v4.devbox.test"]),
        "127.77.0.2\n127.77.0.4\n"
    );
}

#[test]
fn drill() {
    let Some(drill) = find("drill") else {
        return skip("drill", "drill is not installed (ldnsutils)");
    };
    let server = serve("127.0.0.1:0").unwrap();
    let port = server.address.port().to_string();
    let ask = |words: &[&str]| {
        output(
            Command::new(&drill)
                .args(["-p", &port])
                .args(words)
                .arg("@127.0.0.1"),
        )
    };
    assert!(ask(&["api.devbox.test"]).contains("api.devbox.test.\t5\tIN\tA\t127.77.0.2"));
    assert!(ask(&["-t", "many.devbox.test"]).matches("127.77.1.").count() >= 100);
    assert!(ask(&["v4.devbox.test", "AAAA"]).contains("rcode: NOERROR"));
    assert!(ask(&["nobody.devbox.test"]).contains("rcode: NXDOMAIN"));
}

/// What the resolvers of languages print: one line for each question.
const EXPECTED: &str = "api.devbox.test 127.77.0.2 fd00::2\nv4.devbox.test 127.77.0.4\nmany.devbox.test 100\nsrv api.devbox.test:5432\n\
                        txt version=3\nptr v4.devbox.test\nnobody.devbox.test none\n";

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/resolvers")
        .join(name)
}

#[test]
fn go() {
    let Some(go) = find("go") else {
        return skip("go", "Go is not installed (golang-go)");
    };
    let server = serve("127.0.0.1:0").unwrap();
    let folder = std::env::temp_dir().join("nameserver-test-go-cache");
    let mut command = Command::new(go);
    command
        .arg("run")
        .arg(program("resolve.go"))
        .arg(server.address.to_string());
    command
        .env("GOCACHE", folder)
        .env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local");
    assert_eq!(output(&mut command), EXPECTED);
}

#[test]
fn java() {
    let Some(java) = find("java") else {
        return skip("java", "Java is not installed (default-jdk-headless)");
    };
    let server = serve("127.0.0.1:0").unwrap();
    let mut command = Command::new(java);
    command
        .arg(program("Resolve.java"))
        .arg(server.address.to_string());
    assert_eq!(output(&mut command), EXPECTED);
}

#[test]
fn node() {
    let Some(node) = find("node") else {
        return skip("node", "Node is not installed (nodejs)");
    };
    let server = serve("127.0.0.1:0").unwrap();
    let mut command = Command::new(node);
    command
        .arg(program("resolve.mjs"))
        .arg(server.address.to_string());
    assert_eq!(output(&mut command), EXPECTED);
}

/// The C libraries ask whom resolv.conf(5) names, on port 53: the program gets a mount namespace with one of its own.
fn with_resolv_conf(test: &str, server: &str, command: &[&str]) -> Option<(bool, String)> {
    let folder = std::env::temp_dir().join(format!("nameserver-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let resolv_conf = folder.join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {server}\nsearch devbox.test\n")).unwrap();
    let switch = folder.join("nsswitch.conf");
    std::fs::write(&switch, "hosts: dns\n").unwrap();
    let script = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";
    let mut unshared = Command::new("unshare");
    unshared
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&resolv_conf)
        .arg(&switch)
        .args(command);
    let done = unshared.output();
    std::fs::remove_dir_all(&folder).unwrap();
    match done {
        Ok(done) if String::from_utf8_lossy(&done.stderr).contains("unshare") => {
            skip(test, "no mount namespace without root");
            None
        }
        Ok(done) => Some((
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )),
        Err(error) => {
            skip(test, &format!("unshare(1): {error}"));
            None
        }
    }
}

#[test]
fn glibc() {
    let Ok(_server) = serve("127.77.53.1:53") else {
        return skip("glibc", "port 53 needs root");
    };
    let lookup = |name: &str| with_resolv_conf("glibc", "127.77.53.1", &["getent", "ahosts", name]);
    let Some((_, both)) = lookup("api.devbox.test") else {
        return;
    };
    assert!(both.contains("127.77.0.2") && both.contains("fd00::2"), "{both}");
    // By the search list.
    assert!(lookup("v4").unwrap().1.contains("127.77.0.4"));
    assert!(lookup("many.devbox.test").unwrap().1.lines().count() >= 100);
    assert!(!lookup("nobody.devbox.test").unwrap().0);
}

#[test]
fn musl() {
    let Some(gcc) = find("musl-gcc") else {
        return skip("musl", "musl-gcc is not installed (musl-tools)");
    };
    let Ok(_server) = serve("127.77.53.2:53") else {
        return skip("musl", "port 53 needs root");
    };
    let built = std::env::temp_dir().join(format!("nameserver-resolve-{}", std::process::id()));
    let mut build = Command::new(gcc);
    build
        .args(["-static", "-o"])
        .arg(&built)
        .arg(program("resolve.c"));
    output(&mut build);
    let lookup = |name: &str| with_resolv_conf("musl", "127.77.53.2", &[built.to_str().unwrap(), name]);
    let found = lookup("api.devbox.test");
    let others = ["v4", "nobody.devbox.test"].map(lookup);
    std::fs::remove_file(&built).unwrap();
    let Some((_, both)) = found else { return };
    assert!(both.contains("127.77.0.2") && both.contains("fd00::2"), "{both}");
    let [searched, missing] = others.map(Option::unwrap);
    assert!(searched.1.contains("127.77.0.4"), "{searched:?}");
    assert!(!missing.0, "{missing:?}");
}
