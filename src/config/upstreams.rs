//! `upstreams`: the MCP servers, their routes and limits.

use std::time::Duration;

use super::headers::default_identity;
use super::read::{At, Object};
use super::urls::{overlap, split_port};
use super::values::shown;
use super::{Listener, PublicUrl, Upstream, UpstreamTls, UpstreamUrl, keys, rules, tls};
use crate::domain::scope::Scope;
use crate::domain::uri::Resource;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Proxies and balancers on the way give a silent connection up after 30 seconds and more.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Most browser origins of one upstream.
const MAX_ORIGINS: usize = 100;

/// What an upstream is checked against.
pub(super) struct Surroundings<'s> {
    /// A stand-in where the file's own is wrong; then nothing that is made of it gets out.
    pub(super) public_url: &'s PublicUrl,
    pub(super) endpoint_prefix: &'s str,
    pub(super) listen: &'s [Listener],
}

/// The upstreams; at least one.
pub(super) fn read(top: &Object<'_>, around: &Surroundings<'_>) -> Vec<Upstream> {
    let items = top.items("upstreams");
    match top.get("upstreams") {
        None => top.missing(
            "upstreams",
            "[{name: everything, path: /everything/mcp, url: http://127.0.0.1:3001/mcp}], at least one server",
        ),
        Some(at) if at.is_list() && items.is_empty() => at.problem("add at least one server"),
        Some(_) => {}
    }
    let mut found: Vec<(Upstream, At<'_>)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let Some(object) = item.object(keys::UPSTREAM) else {
            continue;
        };
        if let Some(at) = object.required("name", "everything") {
            at.unused_name(&mut names);
        }
        let Some(upstream) = item.upstream(&object, around) else {
            continue;
        };
        let path_at = object.get("path").cloned().unwrap_or(item);
        let other = found
            .iter()
            .find(|(other, _)| same_host(other, &upstream) && overlap(&other.path, &upstream.path));
        if let Some((other, _)) = other {
            path_at.problem(format!(
                "overlaps the path of {} ({}); write one that neither equals it, nor is below or above it",
                other.name,
                if other.path.is_empty() { "/" } else { &other.path },
            ));
        }
        found.push((upstream, path_at));
    }
    found.into_iter().map(|(upstream, _)| upstream).collect()
}

/// Whether one request could be for either: the same host, where a port that is not given may be any.
fn same_host(one: &Upstream, other: &Upstream) -> bool {
    match (one.host.as_deref(), other.host.as_deref()) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let ((name, port), (other_name, other_port)) = (split_port(one), split_port(other));
            name == other_name && (port.is_none() || other_port.is_none() || port == other_port)
        }
        _ => false,
    }
}

impl<'a> At<'a> {
    fn unused_name(&self, names: &mut Vec<String>) {
        let Some(name) = self.name() else { return };
        if matches!(name.as_str(), "auto" | "none") {
            self.problem(format!(
                "{name} has a meaning in oauth.root_resource; write another name"
            ));
        } else if names.contains(&name) {
            self.problem(format!("{} is the name of an earlier upstream", shown(&name)));
        }
        names.push(name);
    }

    fn upstream(&self, object: &Object<'a>, around: &Surroundings<'_>) -> Option<Upstream> {
        let name = object.get("name").and_then(At::written).unwrap_or("?").to_owned();
        let path = object.required("path", "/everything/mcp").and_then(|at| {
            let path = at.path()?;
            at.not_ours(&path, around.endpoint_prefix)?;
            Some(path)
        });
        let host = object.optional("host", |at| at.other_host(around.public_url));
        let url = object
            .required("url", "http://127.0.0.1:3001/mcp")
            .and_then(|at| at.not_ourselves(at.upstream_url()?, around));
        let scopes = object.or("scopes", Scope::empty(), At::scopes);
        let rules = rules::read(object);
        let filter_lists = object.or("filter_lists", true, At::boolean);
        let identity_headers = object.or("identity_headers", default_identity(), At::identity_headers);
        let headers = object.or("headers", Vec::new(), |at| at.static_headers(&identity_headers));
        let allowed_origins = object.or("allowed_origins", Vec::new(), At::origins);
        let bind_sessions = object.or("bind_sessions", true, At::boolean);
        let keep_alive = object.or("keep_alive", Some(KEEP_ALIVE), |at| {
            at.unless_none(|at| at.duration(SECOND, 60 * MINUTE))
        });
        let identity_jwt = object.or("identity_jwt", None, |at| {
            at.identity_jwt(&identity_headers, &headers, &around.public_url.origin)
        });
        let limits = object.optional("limits", At::limits).unwrap_or_default();
        let http2 = object.or("http2", false, At::boolean);
        let tls = object.optional("tls", |at| at.upstream_tls(url.as_ref()));
        let path = path?;
        // An upstream that is wrong elsewhere still takes part in the search for overlapping routes.
        let url = url.unwrap_or_else(nowhere);
        let resource = self.resource(around.public_url, host.as_deref(), &path)?;
        Some(Upstream {
            name,
            path,
            host: host.map(|host| without_default_port(&host, around.public_url)),
            resource,
            url,
            scopes,
            rules,
            filter_lists,
            identity_headers,
            identity_jwt,
            headers,
            allowed_origins,
            bind_sessions,
            keep_alive,
            limits,
            tls: tls.unwrap_or_default(),
            http2,
        })
    }

    /// `tls` of an upstream.
    fn upstream_tls(&self, url: Option<&UpstreamUrl>) -> Option<UpstreamTls> {
        let object = self.object(keys::UPSTREAM_TLS)?;
        if url.is_some_and(|url| !url.tls) {
            return self.refuse("is for an https URL; write `url: https://…` or leave it out");
        }
        let authorities = object.optional("ca", At::authorities);
        match (object.get("cert"), object.get("key")) {
            (Some(_), None) => object.missing("key", "client-key.pem"),
            (None, Some(_)) => object.missing("cert", "client.pem"),
            _ => {}
        }
        let server_name = object.optional("server_name", |at| {
            let name = at.text()?.to_ascii_lowercase();
            let fine = tls::is_server_name(&name).then_some(name);
            fine.or_else(|| at.refuse("is not the name of a server; write mcp.internal"))
        });
        Some(UpstreamTls {
            authorities,
            certificate: self.certified(&object),
            server_name,
        })
    }

    /// The public URL of an upstream (RFC 8707 §2).
    fn resource(&self, public_url: &PublicUrl, host: Option<&str>, path: &str) -> Option<Resource> {
        let authority = match host {
            None => public_url.authority(),
            Some(host) if split_port(host).1.is_some() => host.to_owned(),
            Some(host) => public_url
                .port
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        };
        let text = format!("{}://{authority}{path}", public_url.scheme);
        Resource::parse(&text)
            .ok()
            .or_else(|| self.refuse(format!("{} cannot be a resource", shown(&text))))
    }

    /// A host that is not the one of `public_url`.
    fn other_host(&self, public_url: &PublicUrl) -> Option<String> {
        let host = self.host()?;
        let (name, port) = split_port(&host);
        let own_port = public_url.port.unwrap_or(default_port(public_url));
        if name == public_url.host && port.is_none_or(|port| port.parse() == Ok(own_port)) {
            return self.refuse("is the host of public_url, which every upstream has; leave it out");
        }
        Some(host)
    }

    /// An upstream is another server: a request that comes back in would go round and round.
    fn not_ourselves(&self, url: UpstreamUrl, around: &Surroundings<'_>) -> Option<UpstreamUrl> {
        let ours = |listener: &Listener| {
            let address = listener.address;
            let same_address = url.host.parse() == Ok(address.ip())
                || (address.ip().is_loopback() || address.ip().is_unspecified())
                    && matches!(url.host.as_str(), "localhost" | "127.0.0.1" | "::1" | "0.0.0.0");
            same_address && url.port == address.port() && url.port != 0
        };
        let public = url.authority == around.public_url.authority() && url.tls == (around.public_url.scheme == "https");
        if public || around.listen.iter().any(ours) {
            return self.refuse("is this gateway itself; write the address of the MCP server");
        }
        Some(url)
    }

    fn origins(&self) -> Option<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        let items = self.list()?;
        if items.len() > MAX_ORIGINS {
            return self.refuse(format!("has more than {MAX_ORIGINS} origins"));
        }
        for item in items {
            let Some(origin) = item.origin() else { continue };
            if found.contains(&origin) {
                item.problem("is in the list twice");
            }
            found.push(origin);
        }
        Some(found)
    }
}

/// The port that a client of the public scheme leaves out.
fn default_port(public_url: &PublicUrl) -> u16 {
    if public_url.scheme == "https" { 443 } else { 80 }
}

/// A host as `Host` headers have it.
fn without_default_port(host: &str, public_url: &PublicUrl) -> String {
    let (name, port) = split_port(host);
    let leave_out = port.is_some_and(|port| port.parse() == Ok(default_port(public_url)));
    if leave_out { name } else { host }.to_owned()
}

/// Stands in for a URL that was refused.
fn nowhere() -> UpstreamUrl {
    UpstreamUrl {
        tls: true,
        host: String::new(),
        port: 0,
        authority: String::new(),
        path: String::new(),
    }
}
