//! What is known of well-known identity providers, the one table of it.

use super::providers::Manners;

/// A row of [`PRESETS`].
pub(super) struct Preset {
    /// What `preset` says.
    pub(super) word: &'static str,
    /// What its button says.
    pub(super) name: &'static str,
    /// Its issuer, where there is one for everybody; `{tenant}` stands for the key `tenant`.
    pub(super) issuer: Option<&'static str>,
    /// Whether it speaks GitHub's own protocol.
    pub(super) github: bool,
    /// Whether its issuers end with a slash, which is easily lost.
    pub(super) slash_at_end: bool,
    /// Claims that may hold the username, the best first.
    pub(super) usernames: &'static [&'static str],
    /// Its ways.
    pub(super) manners: Manners,
}

const PLAIN: Manners = Manners {
    chooses_account_only: false,
    offline_by_parameter: false,
    organization_claim: None,
};
const USUAL: &[&str] = &["preferred_username", "nickname", "email"];

const fn openid(word: &'static str, name: &'static str, issuer: Option<&'static str>) -> Preset {
    Preset {
        word,
        name,
        issuer,
        github: false,
        slash_at_end: false,
        usernames: USUAL,
        manners: PLAIN,
    }
}

/// Every provider that needs less to be written down than others.
pub(super) static PRESETS: [Preset; 7] = [
    Preset {
        usernames: &["email"],
        manners: Manners {
            chooses_account_only: true,
            offline_by_parameter: true,
            organization_claim: Some("hd"),
        },
        ..openid("google", "Google", Some("https://accounts.google.com"))
    },
    openid(
        "microsoft",
        "Microsoft",
        Some("https://login.microsoftonline.com/{tenant}/v2.0"),
    ),
    openid("okta", "Okta", None),
    Preset {
        slash_at_end: true,
        ..openid("auth0", "Auth0", None)
    },
    openid("keycloak", "Keycloak", None),
    openid("gitlab", "GitLab", Some("https://gitlab.com")),
    Preset {
        github: true,
        ..openid("github", "GitHub", None)
    },
];

/// The preset of an issuer that is the same for everybody.
pub(super) fn preset_of_issuer(issuer: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.issuer == Some(issuer))
}
