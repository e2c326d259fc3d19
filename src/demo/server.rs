//! A small real MCP server, made with the official Rust SDK, to put the gateway in front of.
//!
//! It knows nothing of OAuth, like every server that the gateway is for: it serves whoever reaches it, on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::Extension;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ContentBlock, Implementation, ProgressNotificationParam, RequestMetaObject, ServerCapabilities,
    ServerConfig,
};
use rmcp::schemars::JsonSchema;
use rmcp::service::Peer;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, tool, tool_handler, tool_router};
use serde::Deserialize;
use tokio::net::TcpListener;

/// Where the server's MCP endpoint is.
pub const PATH: &str = "/mcp";
/// Longest text that `echo` gives back.
const MAX_ECHO: usize = 64 << 10;
/// Highest number that `count` counts to.
const MAX_COUNT: u32 = 1000;
/// Longest pause between two numbers, in milliseconds.
const MAX_PAUSE: u64 = 10_000;

/// The demo server.
#[derive(Clone)]
struct Demo {
    tool_router: ToolRouter<Self>,
}

/// What `echo` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Echo {
    /// The text to give back
    text: String,
}

/// What `count` takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Count {
    /// How far to count, at most 1000
    to: u32,
    /// Milliseconds between two numbers, at most 10000; 200 if missing
    pause_ms: Option<u64>,
}

#[tool_router]
impl Demo {
    fn new() -> Self {
        Self {
            tool_router: Self::tool_router(),
        }
    }

    /// Every header of the request as the server got it, so that one can see what the gateway says about the caller.
    #[tool(
        description = "Shows who you are: the HTTP headers that this server received from the gateway",
        annotations(read_only_hint = true)
    )]
    async fn whoami(&self, Extension(parts): Extension<http::request::Parts>) -> Result<CallToolResult, ErrorData> {
        let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &parts.headers {
            headers
                .entry(name.as_str())
                .or_default()
                .push(value.to_str().unwrap_or("(not text)"));
        }
        let headers: BTreeMap<&str, String> = headers
            .into_iter()
            .map(|(name, values)| (name, values.join(", ")))
            .collect();
        let text = serde_json::to_string_pretty(&headers)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
    }

    #[tool(description = "Gives your text back", annotations(read_only_hint = true))]
    async fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> Result<CallToolResult, ErrorData> {
        if text.len() > MAX_ECHO {
            return Err(ErrorData::invalid_params("at most 64 KiB of text", None));
        }
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
    }

    #[tool(
        description = "Counts slowly and reports its progress, to show that streams pass through as they happen",
        annotations(read_only_hint = true)
    )]
    async fn count(
        &self,
        Parameters(Count { to, pause_ms }): Parameters<Count>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let pause = Duration::from_millis(pause_ms.unwrap_or(200));
        if to > MAX_COUNT || pause > Duration::from_millis(MAX_PAUSE) {
            return Err(ErrorData::invalid_params(
                "count to at most 1000, with at most 10000 ms between two numbers",
                None,
            ));
        }
        let token = meta.get_progress_token();
        for number in 1..=to {
            tokio::time::sleep(pause).await;
            if let Some(token) = token.clone() {
                let progress = ProgressNotificationParam::new(token, f64::from(number))
                    .with_total(f64::from(to))
                    .with_message(format!("{number} of {to}"));
                // Whoever went away hears no more; the call ends by itself.
                if client.notify_progress(progress).await.is_err() {
                    break;
                }
            }
        }
        Ok(CallToolResult::success(vec![ContentBlock::text(format!(
            "counted to {to}"
        ))]))
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Demo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("mcpgate-demo", env!("CARGO_PKG_VERSION")))
            .with_instructions("A server behind mcpgate. Call whoami to see what the gateway told it about you.")
    }
}

/// Starts the server on a free loopback port and leaves it running in the background.
///
/// # Errors
/// If no port can be had.
pub async fn start() -> std::io::Result<SocketAddr> {
    let service = StreamableHttpService::new(
        || Ok(Demo::new()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let router = axum::Router::new().nest_service(PATH, service);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the demo server stopped");
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn post(address: SocketAddr, body: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {address}\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: whoami\r\nx-forwarded-user: ada\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn whoami_answers_with_the_headers_that_the_server_received() {
        let address = start().await.unwrap();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
        let answer = post(address, body).await;
        assert!(answer.contains(r#"\"x-forwarded-user\": \"ada\""#), "{answer}");
    }
}
