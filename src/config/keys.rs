//! Every key that gateway.yaml may have, in one table: what is not in it is refused.

pub(super) const TOP: &[&str] = &[
    "public_url",
    "listen",
    "trusted_proxies",
    "watch_files",
    "admin",
    "store",
    "oauth",
    "scopes",
    "users",
    "accounts",
    "audit",
    "identity_providers",
    "upstreams",
    "outbound",
];
pub(super) const LISTENER: &[&str] = &["address", "tls", "http2", "proxy_protocol"];
pub(super) const TLS: &[&str] = &["cert", "key"];
pub(super) const ADMIN: &[&str] = &["listen", "token"];
pub(super) const AUDIT: &[&str] = &["file", "stdout", "key"];
pub(super) const ACCOUNTS: &[&str] = &["second_factor"];
pub(super) const STORE: &[&str] = &["sled"];
pub(super) const SLED: &[&str] = &["path"];
pub(super) const OAUTH: &[&str] = &[
    "scopes",
    "code_expires_in",
    "access_token_expires_in",
    "refresh_token_expires_in",
    "require_pkce",
    "refresh_grace",
    "issuer_in_response",
    "endpoint_prefix",
    "root_resource",
    "login_page",
    "registration",
    "clients",
    "grants",
    "pushed_authorization_requests",
    "personal_access_tokens",
    "dpop",
    "trusted_issuers",
    "limits",
];
pub(super) const ENDPOINT_LIMITS: &[&str] = &[
    "register",
    "client_configuration",
    "authorize",
    "login",
    "login_page",
    "token",
    "revoke",
    "introspect",
    "userinfo",
    "par",
    "device_authorization",
    "device",
    "backchannel_logout",
    "account",
];
pub(super) const LOGIN_PAGE: &[&str] = &["url", "secret"];
pub(super) const REGISTRATION: &[&str] = &[
    "dynamic",
    "client_id_metadata_documents",
    "allowed_client_hosts",
    "denied_client_hosts",
    "initial_access_tokens",
    "allowed_redirect_hosts",
    "allowed_redirect_schemes",
];
pub(super) const GRANTS: &[&str] = &["client_credentials", "device_code", "token_exchange"];
pub(super) const TRUSTED_ISSUER: &[&str] = &["issuer", "jwks_uri", "jwks_file", "users_by"];
pub(super) const CLIENT: &[&str] = &[
    "client_id",
    "client_secret",
    "jwks",
    "jwks_uri",
    "client_name",
    "redirect_uris",
    "token_endpoint_auth_method",
    "grant_types",
    "scope",
    "id_token_signed_response_alg",
    "dpop_bound_access_tokens",
    "upstreams",
    "introspects",
];
pub(super) const SCOPE: &[&str] = &["name", "description", "groups", "implies"];
pub(super) const USER: &[&str] = &["username", "password_hash", "email", "name", "groups"];
pub(super) const IDENTITY_PROVIDER: &[&str] = &[
    "id",
    "preset",
    "kind",
    "name",
    "issuer",
    "tenant",
    "client_id",
    "client_secret",
    "scopes",
    "allowed_domains",
    "allowed_emails",
    "allowed_groups",
    "allowed_organizations",
    "allow_anyone",
    "claims",
    "groups_map",
    "require_verified_email",
    "recheck",
    "github",
];
pub(super) const PROVIDER_CLAIMS: &[&str] = &["username", "email", "name", "groups"];
pub(super) const GITHUB: &[&str] = &["url", "api_url"];
pub(super) const UPSTREAM: &[&str] = &[
    "name",
    "path",
    "host",
    "url",
    "scopes",
    "tools",
    "resources",
    "prompts",
    "methods",
    "filter_lists",
    "identity_headers",
    "identity_jwt",
    "headers",
    "allowed_origins",
    "bind_sessions",
    "keep_alive",
    "limits",
    "tls",
    "http2",
];
pub(super) const RULE: &[&str] = &["match", "scopes", "deny"];
pub(super) const UPSTREAM_TLS: &[&str] = &["ca", "cert", "key", "server_name"];
pub(super) const IDENTITY_JWT: &[&str] = &["header", "audience", "lifetime"];
pub(super) const LIMITS: &[&str] = &[
    "body",
    "connect_timeout",
    "response_timeout",
    "idle_stream",
    "requests_per_minute",
    "client_requests_per_minute",
    "tool_calls_per_minute",
    "concurrent_requests",
    "concurrent_streams",
    "total_concurrent_requests",
    "total_concurrent_streams",
];
pub(super) const OUTBOUND: &[&str] = &["ca"];
/// Where a secret is, if it is not written out.
pub(super) const SECRET: &[&str] = &["env", "file"];

/// Each map of the file and its keys.
const MAPS: &[(&str, &[&str])] = &[
    ("", TOP),
    ("listen[].", LISTENER),
    ("listen[].tls.", TLS),
    ("admin.", ADMIN),
    ("accounts.", ACCOUNTS),
    ("audit.", AUDIT),
    ("store.", STORE),
    ("store.sled.", SLED),
    ("oauth.", OAUTH),
    ("oauth.registration.", REGISTRATION),
    ("oauth.registration.initial_access_tokens[].", SECRET),
    ("oauth.clients[].", CLIENT),
    ("oauth.clients[].client_secret.", SECRET),
    ("oauth.grants.", GRANTS),
    ("oauth.trusted_issuers[].", TRUSTED_ISSUER),
    ("oauth.limits.", ENDPOINT_LIMITS),
    ("oauth.login_page.", LOGIN_PAGE),
    ("scopes[].", SCOPE),
    ("users[].", USER),
    ("identity_providers[].", IDENTITY_PROVIDER),
    ("identity_providers[].client_secret.", SECRET),
    ("identity_providers[].claims.", PROVIDER_CLAIMS),
    ("identity_providers[].github.", GITHUB),
    ("upstreams[].", UPSTREAM),
    ("upstreams[].identity_jwt.", IDENTITY_JWT),
    ("upstreams[].tools[].", RULE),
    ("upstreams[].resources[].", RULE),
    ("upstreams[].prompts[].", RULE),
    ("upstreams[].methods[].", RULE),
    ("upstreams[].limits.", LIMITS),
    ("upstreams[].tls.", UPSTREAM_TLS),
    ("outbound.", OUTBOUND),
];

/// Every key as a path, such as `upstreams[].limits.body`; for the tests that keep gateway.yaml and the reference in
/// step with the code.
pub fn known_keys() -> impl Iterator<Item = String> {
    MAPS.iter()
        .flat_map(|(map, keys)| keys.iter().map(move |key| format!("{map}{key}")))
}

/// The known key that an unknown one was probably meant to be.
pub(super) fn meant<'a>(known: &[&'a str], found: &str) -> Option<&'a str> {
    if found.len() > 64 {
        return None;
    }
    let found = found.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|key| (distance(&found, key), *key))
        .min()
        .filter(|(far, key)| *far <= (key.len() / 3).clamp(1, 3))
        .map(|(_, key)| key)
}

/// How many letters have to be put in, taken out or changed to make one word of the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((other, diagonal), above) in to.iter().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(usize::MAX - 1);
            let changed = diagonal + usize::from(letter != *other);
            next.push(changed.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        for (found, key) in [
            ("lissten", "listen"),
            ("upstream", "upstreams"),
            ("public-url", "public_url"),
            ("Users", "users"),
            ("oath", "oauth"),
        ] {
            assert_eq!(meant(TOP, found), Some(key), "{found}");
        }
        for stranger in ["x", "federated_sign_in", "", &"listen".repeat(20)] {
            assert_eq!(meant(TOP, stranger), None, "{stranger}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
