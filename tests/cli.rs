//! The program as a person meets it: commands, exit codes, what is printed where.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

fn mcpgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcpgate"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> (i32, String, String) {
    told(mcpgate(arguments).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().expect("it exits by itself"),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Sends a signal by number, with nothing but the system's own tool.
fn signal(child: &Child, name: &str) {
    assert!(
        Command::new("kill")
            .args(["-s", name, &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// Waits for the end, for at most ten seconds.
fn exit_code(child: &mut Child) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("it exits by itself");
        }
        if started.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn hashed(password: &str) -> String {
    let mut child = mcpgate(&["hash-password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(format!("{password}\n").as_bytes())
        .unwrap();
    let (code, out, _) = told(child.wait_with_output().unwrap());
    assert_eq!(code, 0);
    out.trim().to_owned()
}

/// A small configuration on free ports.
fn configuration(directory: &TempDir) -> (String, u16) {
    let ports: Vec<u16> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect::<Vec<_>>()
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let path = directory.path().join("gateway.yaml");
    let yaml = format!(
        "public_url: http://127.0.0.1:{port}\nlisten: 127.0.0.1:{port}\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\nstore: {{ sled: {{ path: \"{data}\" }} }}\nusers:\n  - {{ username: ada, password_hash: \"{hash}\" }}\nupstreams:\n  - {{ name: one, path: /one/mcp, url: \"http://127.0.0.1:9/mcp\" }}\n",
        port = ports[0],
        admin = ports[1],
        data = directory.path().join("data").display(),
        hash = hashed("a password for ada"),
    );
    std::fs::write(&path, yaml).unwrap();
    (path.to_str().unwrap().to_owned(), ports[0])
}

/// Starts a server and waits until it says that it listens.
fn serve(path: &str) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let mut child = mcpgate(&["serve", "-c", path]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without listening");
    }
    (child, stderr, line)
}

#[test]
fn version_and_help_go_to_standard_output() {
    let (code, out, _) = output(&["--version"]);
    assert_eq!(
        (code, out.as_str()),
        (0, concat!("mcpgate ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let (code, out, _) = output(&["--help"]);
    assert_eq!(code, 0);
    for word in ["serve", "demo", "check", "hash-password", "--config", "--log-format"] {
        assert!(out.contains(word), "{word} is missing in {out}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["nonsense"][..],
        &["--nonsense"],
        &["check", "--nonsense"],
        &["serve", "--log-format", "xml"],
    ] {
        let (code, _, err) = output(arguments);
        assert_eq!(code, 2, "{arguments:?} {err}");
        assert!(err.contains("Usage") || err.contains("possible values"), "{err}");
    }
}

#[test]
fn check_says_what_is_fine_and_lists_every_problem() {
    let directory = TempDir::new().unwrap();
    let (path, _) = configuration(&directory);
    let (code, out, _) = output(&["check", "-c", &path]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("fine") && out.contains("/one/mcp -> http://127.0.0.1:9/mcp"),
        "{out}"
    );

    let bad = directory.path().join("bad.yaml");
    std::fs::write(&bad, "public_url: http://mcp.example.com\nlissten: 127.0.0.1:8080\nupstreams:\n  - name: one\n    path: one\n    url: localhost:3001\n").unwrap();
    for command in ["check", "serve"] {
        let (code, out, err) = output(&[command, "-c", bad.to_str().unwrap()]);
        assert_eq!(code, 2);
        let all = format!("{out}{err}");
        for place in [
            "public_url",
            "lissten",
            "upstreams[0].path",
            "upstreams[0].url",
            "users",
        ] {
            assert!(
                all.lines().any(|line| line.contains(place)),
                "{place} is missing in {all}"
            );
        }
        assert!(
            all.contains(":1:") && all.contains(":2:") && all.contains(":5:") && all.contains(":6:"),
            "lines are missing in {all}"
        );
    }
    let (code, _, err) = output(&["check", "-c", "/nonexistent/gateway.yaml"]);
    assert_eq!(code, 2);
    assert!(err.contains("/nonexistent/gateway.yaml"), "{err}");
}

#[test]
fn hash_password_prints_an_argon2id_string_and_never_the_password() {
    let hash = hashed("a password");
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_ne!(hash, hashed("a password"), "the salt is random");
    let (code, out, err) = output(&["hash-password"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("empty"), "{err}");
}

#[test]
fn serve_says_where_it_listens_and_leaves_on_sigterm_and_sigint() {
    for name in ["TERM", "INT"] {
        let directory = TempDir::new().unwrap();
        let (path, port) = configuration(&directory);
        let (mut child, _stderr, line) = serve(&path);
        assert!(line.contains(&format!("listening on 127.0.0.1:{port}")), "{line}");
        let started = Instant::now();
        signal(&child, name);
        assert_eq!(exit_code(&mut child), 0, "{name}");
        assert!(started.elapsed() < Duration::from_secs(5), "nothing was in flight");
    }
}

#[test]
fn check_names_the_certificates() {
    let directory = TempDir::new().unwrap();
    let (path, port) = configuration(&directory);
    let yaml = std::fs::read_to_string(&path).unwrap().replace(
        &format!("listen: 127.0.0.1:{port}"),
        &format!(
            "listen: [{{ address: '127.0.0.1:{port}', tls: {{ cert: tests/fixtures/tls/cert.pem, key: tests/fixtures/tls/key.pem }} }}]"
        ),
    );
    std::fs::write(&path, yaml).unwrap();
    let (code, out, err) = output(&["check", "-c", &path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("  certificate for localhost, valid until Wed, 30 Oct 2126 03:50:59 GMT\n"),
        "{out}"
    );
}

#[test]
fn sighup_reports_a_bad_file_and_goes_on() {
    let directory = TempDir::new().unwrap();
    let (path, port) = configuration(&directory);
    let (mut child, mut stderr, _) = serve(&path);
    std::fs::write(&path, "public_url: nonsense\n").unwrap();
    signal(&child, "HUP");
    let mut line = String::new();
    while !line.contains("public_url") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
        "the old configuration stays in force"
    );
    signal(&child, "TERM");
    assert_eq!(exit_code(&mut child), 0);
}

#[test]
fn a_second_process_on_the_same_store_is_told_so() {
    let directory = TempDir::new().unwrap();
    let (path, port) = configuration(&directory);
    let (mut child, _stderr, _) = serve(&path);
    // The same port: said before anything else.
    let (code, _, err) = output(&["serve", "-c", &path]);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{err}");
    // The same store behind other ports.
    let other = TempDir::new().unwrap();
    let (other_path, _) = configuration(&other);
    let yaml = std::fs::read_to_string(&other_path).unwrap().replace(
        &other.path().display().to_string(),
        &directory.path().display().to_string(),
    );
    std::fs::write(&other_path, yaml).unwrap();
    let (code, _, err) = output(&["serve", "-c", &other_path]);
    assert_eq!(code, 1);
    assert!(err.contains("in use by another mcpgate process"), "{err}");
    signal(&child, "TERM");
    assert_eq!(exit_code(&mut child), 0);
}

#[test]
fn the_log_is_json_where_that_is_wanted() {
    let directory = TempDir::new().unwrap();
    let (path, port) = configuration(&directory);
    let mut child = mcpgate(&["--log-format", "json", "-c", &path])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without listening");
    }
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "POST /one/mcp?secret=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer mgat_secret\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    signal(&child, "TERM");
    assert_eq!(exit_code(&mut child), 0);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let access: serde_json::Value = rest
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .find(|line: &serde_json::Value| line["target"] == "mcpgate::access")
        .unwrap_or_else(|| panic!("no access line in {rest}"));
    assert_eq!(access["status"], 401);
    assert_eq!(access["path"], "/one/mcp");
    assert!(!rest.contains("secret"), "{rest}");
}

#[test]
fn the_demo_prints_all_that_a_newcomer_needs() {
    let mut child = mcpgate(&["demo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        assert!(out.read_line(&mut text).unwrap() > 0, "{text}");
    }
    let after = |label: &str| {
        text.split(label)
            .nth(1)
            .unwrap_or_else(|| panic!("{label} is missing in {text}"))
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    let (url, user, password) = (after("MCP server  "), after("Sign in as"), after("Password"));
    assert!(
        url.starts_with("http://127.0.0.1:") && url.ends_with("/demo/mcp"),
        "{url}"
    );
    assert_eq!(user, "demo");
    assert!(password.len() >= 12);
    assert!(text.contains("claude mcp add --transport http") && text.contains("@modelcontextprotocol/inspector"));
    signal(&child, "INT");
    assert_eq!(exit_code(&mut child), 0);
}
