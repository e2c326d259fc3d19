//! What real clients do that a strict reading of the RFCs would turn away, and what is done about it here: the one list of
//! it. A client is never recognised by its name, which anybody can write down; what counts is the shape of what it sends,
//! so a tolerance holds for everybody, and none of them lets anybody have what is not theirs.
//!
//! `tests/quirks.rs` does, for each row, what such a client does.

/// Something that is let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tolerance {
    /// A secret in the form where Basic was registered, and the other way round.
    SecretInEitherPlace,
    /// HTTP Basic with id and secret as they are, instead of form-encoded as RFC 6749 §2.3.1 has it.
    BasicAsItIs,
    /// Another port than the registered one, or one where none was, on `127.0.0.1`, `[::1]` and `localhost`.
    AnyLoopbackPort,
    /// `http://127.0.0.1:5/` for a registered `http://127.0.0.1`, and the other way round.
    LoopbackSlash,
    /// Redirect URIs that cannot be used among those that can.
    OneBadRedirectUri,
    /// Redirect URIs with a scheme that only the app has, and that has no dot in it.
    PrivateUseScheme,
    /// Grant and response types that do not exist here, in a registration.
    ExtraTypes,
    /// An authentication method that does not exist here, in a registration: it is replaced.
    OtherAuthMethod,
    /// Members that are `null`, in a registration.
    NullMembers,
    /// The same registration again.
    RegistersTwice,
    /// More scopes at `/authorize` than were named at `/register`.
    UnregisteredScopes,
    /// Scopes that do not exist: they are left out, and the answer says what was granted.
    UnknownScopes,
    /// `offline_access`, where no list has it; and a refresh token without it, for who registered the grant.
    OfflineAccessUnlisted,
    /// No `resource`, at `/authorize` where only one can be meant, at `/token` always.
    NoResource,
    /// The bare origin as `resource`, where only one can be meant.
    OriginAsResource,
    /// A slash too many at the end of `resource`.
    ResourceSlash,
    /// Endpoints looked for at the root of the origin, whatever discovery says.
    EndpointsAtRoot,
    /// Metadata looked for under the path of an upstream, inserted or appended.
    MetadataUnderPath,
    /// `MCP-Protocol-Version` in requests for metadata, which makes a browser ask first.
    VersionHeaderOnDiscovery,
    /// No `redirect_uri` at `/token`.
    NoRedirectUriAtToken,
    /// One refresh token used by several processes at once, or again because the answer was lost.
    RefreshRetried,
    /// No `scope` in a refresh.
    RefreshWithoutScope,
    /// A look at `/authorize` by the program itself, which wants JSON.
    AuthorizePreflight,
    /// A step-up that asks for the missing scope alone and expects to keep what it had.
    StepUpAsksForLess,
    /// `iss` lost on the way to code that insists on it: `oauth.issuer_in_response` turns parameter and announcement off.
    LosesIssuer,
}

/// A row of [`QUIRKS`].
#[derive(Clone, Copy, Debug)]
pub struct Quirk {
    /// What is let pass.
    pub tolerance: Tolerance,
    /// Who is known to need it.
    pub who: &'static str,
    /// How it is told from a mistake or an attack.
    pub recognised: &'static str,
    /// Where it was reported.
    pub sources: &'static [&'static str],
    /// The file that has it.
    pub applied_in: &'static str,
}

/// All of them.
pub const QUIRKS: &[Quirk] = &[
    Quirk {
        tolerance: Tolerance::SecretInEitherPlace,
        who: "claude.ai (always the form), Codex (always the header)",
        recognised: "one secret in one place, and it is right",
        sources: &["anthropics/claude-ai-mcp#667", "openai/codex#5045"],
        applied_in: "client_auth.rs",
    },
    Quirk {
        tolerance: Tolerance::BasicAsItIs,
        who: "the TypeScript SDK",
        recognised: "the header read as it is names a client, read as RFC 6749 has it it does not",
        sources: &["modelcontextprotocol/typescript-sdk, client/auth.ts"],
        applied_in: "client_auth.rs",
    },
    Quirk {
        tolerance: Tolerance::AnyLoopbackPort,
        who: "Claude Code, VS Code, Copilot CLI and every other app that takes the port that is free",
        recognised: "http, the same loopback host, path and query (RFC 8252 §7.3; localhost as well)",
        sources: &[
            "anthropics/claude-code#37747",
            "anthropics/claude-code#42765",
            "microsoft/vscode#278512",
        ],
        applied_in: "domain/uri.rs",
    },
    Quirk {
        tolerance: Tolerance::LoopbackSlash,
        who: "VS Code",
        recognised: "on loopback, an empty path and / are one",
        sources: &["microsoft/vscode#260446", "microsoft/vscode#278512"],
        applied_in: "domain/uri.rs",
    },
    Quirk {
        tolerance: Tolerance::OneBadRedirectUri,
        who: "Cursor, which registers three of three kinds",
        recognised: "at least one can be used; the answer names those",
        sources: &["bytebase/bytebase#20510", "laravel/mcp#173"],
        applied_in: "metadata.rs",
    },
    Quirk {
        tolerance: Tolerance::PrivateUseScheme,
        who: "Cursor, VS Code, Windsurf",
        recognised: "the scheme is on oauth.registration.allowed_redirect_schemes",
        sources: &["better-auth/better-auth#10946", "RFC 8252 §7.1"],
        applied_in: "domain/uri.rs",
    },
    Quirk {
        tolerance: Tolerance::ExtraTypes,
        who: "VS Code, which lists the device grant",
        recognised: "at least one that exists is there too",
        sources: &["stacklok/toolhive#6290"],
        applied_in: "metadata.rs",
    },
    Quirk {
        tolerance: Tolerance::OtherAuthMethod,
        who: "claude.ai, ChatGPT",
        recognised: "RFC 7591 §3.2.1; an app on somebody's machine becomes public, any other gets a secret",
        sources: &["anthropics/claude-ai-mcp#82", "anthropics/claude-ai-mcp#1043"],
        applied_in: "metadata.rs",
    },
    Quirk {
        tolerance: Tolerance::NullMembers,
        who: "clients that write down what they do not have; none is ever sent, because Claude Code refuses it",
        recognised: "null counts as absent",
        sources: &["anthropics/claude-code#52565"],
        applied_in: "metadata.rs",
    },
    Quirk {
        tolerance: Tolerance::RegistersTwice,
        who: "claude.ai, Claude Code",
        recognised: "each registration is a client of its own, and those that were never used make room first",
        sources: &["anthropics/claude-ai-mcp#966", "anthropics/claude-code#59460"],
        applied_in: "store/sled/clients.rs",
    },
    Quirk {
        tolerance: Tolerance::UnregisteredScopes,
        who: "clients that register with the scopes of one resource and step up later",
        recognised: "the person decides; only what gateway.yaml says of a client binds it",
        sources: &["getmunin/munin#744", "formbricks/formbricks#8406"],
        applied_in: "register.rs",
    },
    Quirk {
        tolerance: Tolerance::UnknownScopes,
        who: "claude.ai, which asks for claudeai; Cursor and ChatGPT, which ask for openid and the like unseen",
        recognised: "RFC 6749 §3.3",
        sources: &["better-auth/better-auth#2813", "better-auth/better-auth#3411"],
        applied_in: "authorize.rs",
    },
    Quirk {
        tolerance: Tolerance::OfflineAccessUnlisted,
        who: "ChatGPT, and every client that asks only for what the resource lists",
        recognised: "refresh tokens follow the registered grant types, or offline_access",
        sources: &["formbricks/formbricks#8406", "anthropics/claude-ai-mcp#840"],
        applied_in: "authorize.rs, domain/grant.rs",
    },
    Quirk {
        tolerance: Tolerance::NoResource,
        who: "revision 2025-03-26, Codex at refresh, mcp-remote with --disable-resource-parameter",
        recognised: "there is one upstream, or oauth.root_resource names one; at /token the grant says which",
        sources: &["openai/codex#33403", "anthropics/claude-code#90497"],
        applied_in: "authorize.rs, token/mod.rs",
    },
    Quirk {
        tolerance: Tolerance::OriginAsResource,
        who: "clients with the metadata of an older gateway in their cache",
        recognised: "our own origin, and only one upstream can be meant",
        sources: &["getsentry/sentry-mcp#837"],
        applied_in: "authorize.rs, token/mod.rs",
    },
    Quirk {
        tolerance: Tolerance::ResourceSlash,
        who: "the TypeScript SDK, claude.ai",
        recognised: "one slash at the end is ignored",
        sources: &["sigbit/mcp-auth-proxy#123"],
        applied_in: "domain/uri.rs",
    },
    Quirk {
        tolerance: Tolerance::EndpointsAtRoot,
        who: "revision 2025-03-26, claude.ai",
        recognised: "the paths belong to the gateway",
        sources: &[
            "anthropics/claude-ai-mcp#82",
            "anthropics/claude-ai-mcp#706",
            "anthropics/claude-ai-mcp#962",
        ],
        applied_in: "mod.rs",
    },
    Quirk {
        tolerance: Tolerance::MetadataUnderPath,
        who: "claude.ai and ChatGPT (inserted), rmcp and some proxies (appended)",
        recognised: "the path is that of an upstream",
        sources: &["anthropics/claude-ai-mcp#367", "anthropics/claude-code#83681"],
        applied_in: "discovery.rs",
    },
    Quirk {
        tolerance: Tolerance::VersionHeaderOnDiscovery,
        who: "the SDKs, in browsers the MCP Inspector",
        recognised: "the preflight allows the header",
        sources: &["sigbit/mcp-auth-proxy#94"],
        applied_in: "mod.rs",
    },
    Quirk {
        tolerance: Tolerance::NoRedirectUriAtToken,
        who: "clients of OAuth 2.1, which dropped it",
        recognised: "PKCE binds the code; one that is sent must be the same string",
        sources: &["draft-ietf-oauth-v2-1 §4.1.3"],
        applied_in: "domain/grant.rs",
    },
    Quirk {
        tolerance: Tolerance::RefreshRetried,
        who: "Claude Code, whose processes share one token",
        recognised: "within oauth.refresh_grace it gets the very same successors",
        sources: &["anthropics/claude-code#85236", "anthropics/claude-code#91641"],
        applied_in: "token/refresh_token.rs",
    },
    Quirk {
        tolerance: Tolerance::RefreshWithoutScope,
        who: "Claude Code",
        recognised: "RFC 6749 §6: as before",
        sources: &["anthropics/claude-code#89862"],
        applied_in: "token/refresh_token.rs",
    },
    Quirk {
        tolerance: Tolerance::AuthorizePreflight,
        who: "mcp-remote, which registers again when it reads invalid_client",
        recognised: "Accept names JSON and not HTML",
        sources: &["punkpeye/mcp-remote#305"],
        applied_in: "authorize.rs",
    },
    Quirk {
        tolerance: Tolerance::StepUpAsksForLess,
        who: "Claude Code, claude.ai",
        recognised: "something new is asked for, and the person agrees to both",
        sources: &["anthropics/claude-code#28258", "anthropics/claude-ai-mcp#931"],
        applied_in: "consent.rs",
    },
    Quirk {
        tolerance: Tolerance::LosesIssuer,
        who: "Codex 0.142 to at least 0.144.3",
        recognised: "whoever runs the gateway turns it off",
        sources: &["openai/codex#31573", "openai/codex#33354", "openai/codex#37300"],
        applied_in: "response.rs, discovery.rs",
    },
];
