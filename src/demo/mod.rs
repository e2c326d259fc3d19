//! `mcpgate demo`: the whole gateway without a file, in front of a server of its own, with everything printed that a
//! newcomer needs to connect a client.

pub mod server;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tempfile::TempDir;

use crate::app::{self, Running};
use crate::config;
use crate::domain::clock::SystemClock;
use crate::domain::secret::random_bytes;
use crate::identity::local::hash_password;

/// The address that the demo takes if it is free, so that what one read about it yesterday is true today.
const USUAL_PORT: u16 = 8080;
/// The same for the admin listener.
const USUAL_ADMIN_PORT: u16 = 9090;
/// Who can sign in.
const USERNAME: &str = "demo";

/// Starts the demo: the running gateway, the directory of its store (removed when dropped) and what to tell the user.
///
/// # Errors
/// A sentence for the terminal.
pub async fn run() -> Result<(Running, TempDir, String), String> {
    let directory =
        TempDir::with_prefix("mcpgate-demo-").map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let upstream = server::start()
        .await
        .map_err(|error| format!("cannot start the demo server: {error}"))?;
    let password = URL_SAFE_NO_PAD.encode(random_bytes::<12>());
    let hash = hash_password(&password).map_err(|error| error.to_string())?;
    let (listen, admin) = (free_port(USUAL_PORT)?, free_port(USUAL_ADMIN_PORT)?);
    let yaml = configuration(listen, admin, upstream, &directory.path().display().to_string(), &hash);
    let config = config::parse(&yaml, directory.path(), &|_| None).map_err(|problems| problems.to_string())?;
    let running = app::start(config, Arc::new(SystemClock))
        .await
        .map_err(|error| error.to_string())?;
    let introduction = introduction(listen, admin, &password);
    Ok((running, directory, introduction))
}

/// The usual port if nobody has it, else any.
fn free_port(usual: u16) -> Result<u16, String> {
    [usual, 0]
        .into_iter()
        .find_map(|port| {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
                .and_then(|listener| listener.local_addr())
                .ok()
        })
        .map(|address| address.port())
        .ok_or_else(|| "no port is free on 127.0.0.1".to_owned())
}

/// The demo's gateway.yaml. The Inspector's web page is allowed as a browser origin.
fn configuration(listen: u16, admin: u16, upstream: SocketAddr, directory: &str, password_hash: &str) -> String {
    format!(
        r#"public_url: http://127.0.0.1:{listen}
listen: 127.0.0.1:{listen}
admin: {{ listen: "127.0.0.1:{admin}" }}
store: {{ sled: {{ path: "{directory}/data" }} }}
scopes:
  - {{ name: "demo:use", description: "Use the tools of the demo server" }}
users:
  - {{ username: {USERNAME}, password_hash: "{password_hash}", email: demo@example.com, name: Demo User, groups: [demo] }}
upstreams:
  - name: demo
    path: /demo/mcp
    url: http://{upstream}{path}
    scopes: ["demo:use"]
    allowed_origins: ["http://localhost:6274", "http://127.0.0.1:6274"]
"#,
        path = server::PATH,
    )
}

/// What the terminal says.
fn introduction(listen: u16, admin: u16, password: &str) -> String {
    let url = format!("http://127.0.0.1:{listen}/demo/mcp");
    format!(
        "
mcpgate is running in front of a small MCP server.

  MCP server   {url}
  Sign in as   {USERNAME}
  Password     {password}

Try it, in another terminal:

  Claude Code     claude mcp add --transport http demo {url}
                  then: claude, /mcp, demo, Authenticate, and ask it to call whoami

  MCP Inspector   npx @modelcontextprotocol/inspector
                  then: transport Streamable HTTP, URL {url}, Connect,
                  sign in, allow, and call the tool whoami

  Without a token curl -i -X POST {url}
                  answers 401 and says where to get one

Metrics are at http://127.0.0.1:{admin}/metrics. The password and everything that
is stored go when you stop the demo with Ctrl-C. Next: a gateway.yaml of your own, see README.md.

"
    )
}
