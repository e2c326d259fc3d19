//! The fixture server of the conformance suite, made with the Rust SDK: `judge-rmcp PORT`. It knows nothing of OAuth.
//!
//! What it says is written as JSON and becomes the SDK's types, so that this file reads like the suite's description.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequiredResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
    ServerConfig, SubscribeRequestParams, UnsubscribeRequestParams,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const SILENCE: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";
/// What they are called, and what they say of themselves.
const TOOLS: [(&str, &str); 12] = [
    ("test_simple_text", "Answers with text"),
    ("test_image_content", "Answers with an image"),
    ("test_audio_content", "Answers with sound"),
    ("test_embedded_resource", "Answers with a resource"),
    ("test_multiple_content_types", "Answers with several kinds of content"),
    ("test_tool_with_progress", "Reports its progress"),
    ("test_error_handling", "Fails"),
    ("greet", "Says hello"),
    ("test_input_required_result_elicitation", "Asks for a name"),
    ("test_input_required_result_sampling", "Asks the model"),
    ("test_input_required_result_list_roots", "Asks for roots"),
    ("test_input_required_result_request_state", "Remembers by the client"),
];
const STATE: &str = "what the client brings back";

/// The server.
#[derive(Clone, Copy)]
struct Fixtures;

/// A type of the SDK's, from what it is on the wire.
fn from<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn text(words: &str) -> Value {
    json!({ "type": "text", "text": words })
}

fn image() -> Value {
    json!({ "type": "image", "data": PIXEL, "mimeType": "image/png" })
}

fn embedded(uri: &str, mime_type: &str, words: &str) -> Value {
    json!({ "type": "resource", "resource": { "uri": uri, "mimeType": mime_type, "text": words } })
}

/// What a tool needs to know before it can answer.
fn needs(name: &str) -> Option<(&'static str, Value, Option<&'static str>)> {
    let ask = |message: &str, property: &str, kind: &str| {
        let schema = json!({ "type": "object", "properties": { property: { "type": kind } }, "required": [property] });
        json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": schema } })
    };
    Some(match name {
        "test_input_required_result_elicitation" => ("user_name", ask("What is your name?", "name", "string"), None),
        "test_input_required_result_sampling" => {
            let question = json!({ "role": "user", "content": text("What is the capital of France?") });
            let request =
                json!({ "method": "sampling/createMessage", "params": { "messages": [question], "maxTokens": 100 } });
            ("capital_question", request, None)
        }
        "test_input_required_result_list_roots" => {
            ("client_roots", json!({ "method": "roots/list", "params": {} }), None)
        }
        "test_input_required_result_request_state" => ("confirm", ask("Please confirm", "ok", "boolean"), Some(STATE)),
        _ => return None,
    })
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_completions();
        ServerConfig::new(capabilities.build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools: Vec<Value> = TOOLS
            .iter()
            .map(|(name, description)| {
                let schema = if *name == "greet" {
                    json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] })
                } else {
                    json!({ "type": "object", "properties": {} })
                };
                json!({ "name": name, "description": description, "inputSchema": schema })
            })
            .collect();
        from(json!({ "tools": tools }))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name.as_ref();
        if let Some((key, input, state)) = needs(name) {
            let given = request.input_responses.as_ref().and_then(|inputs| inputs.get(key));
            let remembered = state.is_none() || request.request_state.as_deref() == state;
            let Some(given) = given.filter(|_| remembered) else {
                let inputs = from(json!({ key: input }))?;
                return Ok(InputRequiredResult::new(Some(inputs), state.map(str::to_owned)).into());
            };
            let given = serde_json::to_string(given).unwrap_or_default();
            return Ok(from::<CallToolResult>(json!({ "content": [text(&format!("state-ok: {given}"))] }))?.into());
        }
        let mut failed = false;
        let content = match name {
            "test_simple_text" => vec![text("This is a simple text response for testing.")],
            "test_image_content" => vec![image()],
            "test_audio_content" => vec![json!({ "type": "audio", "data": SILENCE, "mimeType": "audio/wav" })],
            "test_embedded_resource" => {
                let words = "This is an embedded resource content.";
                vec![embedded("test://embedded-resource", "text/plain", words)]
            }
            "test_multiple_content_types" => {
                let data = json!({ "test": "data", "value": 123 }).to_string();
                let resource = embedded("test://mixed-content-resource", "application/json", &data);
                vec![text("Multiple content types test:"), image(), resource]
            }
            "test_tool_with_progress" => {
                let token = context.meta.get_progress_token();
                for done in [0.0, 50.0, 100.0] {
                    if let Some(token) = token.clone() {
                        let progress = ProgressNotificationParam::new(token, done).with_total(100.0);
                        // Whoever went away hears no more.
                        let _ = context.peer.notify_progress(progress).await;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                vec![text("Tool with progress executed successfully")]
            }
            "test_error_handling" => {
                failed = true;
                vec![text("This tool intentionally returns an error for testing")]
            }
            "greet" => {
                let arguments = request.arguments.unwrap_or_default();
                let whom = arguments.get("name").and_then(Value::as_str).unwrap_or("nobody");
                vec![text(&format!("Hello, {whom}!"))]
            }
            _ => return Err(ErrorData::invalid_params(format!("no tool {name}"), None)),
        };
        Ok(from::<CallToolResult>(json!({ "content": content, "isError": failed }))?.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let all = ["static-text", "static-binary", "watched-resource"];
        let resources = all.map(|name| json!({ "uri": format!("test://{name}"), "name": name }));
        from(json!({ "resources": resources }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        from(json!({ "resourceTemplates": [{ "uriTemplate": "test://template/{id}/data", "name": "anything" }] }))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri.as_str();
        let template = uri
            .strip_prefix("test://template/")
            .and_then(|rest| rest.strip_suffix("/data"));
        let mut content = match (uri, template) {
            ("test://static-text", _) => json!({ "text": "This is the content of the static text resource." }),
            ("test://static-binary", _) => json!({ "mimeType": "image/png", "blob": PIXEL }),
            ("test://watched-resource", _) => json!({ "text": "Watched resource content" }),
            (_, Some(id)) => {
                let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                json!({ "mimeType": "application/json", "text": data.to_string() })
            }
            (_, None) => {
                return Err(ErrorData::resource_not_found(
                    "no such resource",
                    Some(json!({ "uri": uri })),
                ));
            }
        };
        if let Some(members) = content.as_object_mut() {
            members.insert("uri".to_owned(), json!(uri));
            members.entry("mimeType").or_insert_with(|| json!("text/plain"));
        }
        Ok(from::<ReadResourceResult>(json!({ "contents": [content] }))?.into())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let needs = |names: &[&str]| -> Value {
            names
                .iter()
                .map(|name| json!({ "name": name, "required": true }))
                .collect()
        };
        from(json!({ "prompts": [
            { "name": "test_simple_prompt", "description": "A prompt of one message" },
            { "name": "test_prompt_with_arguments", "description": "A prompt with arguments", "arguments": needs(&["arg1", "arg2"]) },
            { "name": "test_prompt_with_embedded_resource", "description": "A prompt with a resource", "arguments": needs(&["resourceUri"]) },
            { "name": "test_prompt_with_image", "description": "A prompt with an image" },
        ] }))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let argument = |name: &str| {
            arguments
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let contents = match request.name.as_str() {
            "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
            "test_prompt_with_arguments" => {
                let (first, second) = (argument("arg1"), argument("arg2"));
                vec![text(&format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
            }
            "test_prompt_with_embedded_resource" => {
                let resource = embedded(
                    &argument("resourceUri"),
                    "text/plain",
                    "Embedded resource content for testing.",
                );
                vec![resource, text("Please process it.")]
            }
            "test_prompt_with_image" => vec![image(), text("Please analyze the image above.")],
            name => return Err(ErrorData::invalid_params(format!("no prompt {name}"), None)),
        };
        let messages: Vec<Value> = contents
            .into_iter()
            .map(|content| json!({ "role": "user", "content": content }))
            .collect();
        Ok(from::<GetPromptResult>(json!({ "messages": messages }))?.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = request.argument.value.as_str();
        let values: Vec<&str> = ["paris", "park", "party"]
            .into_iter()
            .filter(|word| word.starts_with(begun))
            .collect();
        from(json!({ "completion": { "values": values, "hasMore": false } }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: judge-rmcp PORT")?.parse()?;
    let service = StreamableHttpService::new(
        || Ok(Fixtures),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let router = axum::Router::new().nest_service("/mcp", service);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
