//! `oauth.login_page`: where people sign in, if it is not our page.

use super::read::At;
use super::values::shown;
use super::{LoginPage, keys};
use crate::domain::uri::is_loopback;

impl At<'_> {
    /// `builtin`, or a page of the operator's own.
    pub(super) fn login_page(&self) -> Option<LoginPage> {
        if !self.is_map() {
            if self.text()? == "builtin" {
                return None;
            }
            return self.refuse("must be builtin, or a page of your own as { url: https://…, secret: … }");
        }
        let object = self.object(keys::LOGIN_PAGE)?;
        let url = object
            .required("url", "https://app.example.com/sign-in")
            .and_then(At::page_url);
        let secret = object
            .required("secret", "{ env: LOGIN_SECRET }")
            .and_then(At::client_secret);
        Some(LoginPage {
            url: url?,
            secret: secret?,
        })
    }

    /// Where browsers can be sent: nobody on the way may read or change what is in it.
    fn page_url(&self) -> Option<String> {
        let text = self.text()?;
        let fine = url::Url::parse(text).is_ok_and(|url| {
            let guarded = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
            guarded
                && url.has_host()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if fine && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Some(text.to_owned())
        } else {
            self.refuse(format!(
                "{} is no https URL without a fragment (http is for this machine alone)",
                shown(text)
            ))
        }
    }
}
