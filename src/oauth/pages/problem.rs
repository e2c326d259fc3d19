//! Error pages: what happened, what to do about it, and the code that the operator or the app's makers understand.

use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderValue};
use maud::html;

use super::{Answer, Endpoints, page, words};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::oauth::client_document::DocumentError;

/// An error that a person sees.
#[derive(Debug)]
pub(in crate::oauth) struct Problem {
    status: StatusCode,
    title: &'static str,
    what: String,
    advice: &'static str,
    code: &'static str,
    detail: Option<String>,
}

// === impl Problem ===

impl Problem {
    /// The page for an error that cannot be sent to the client.
    pub(in crate::oauth) fn of_request(error: &OAuthError) -> Self {
        let about_document = error.cause.as_ref().is_some_and(|cause| cause.is::<DocumentError>());
        let (status, title, what, advice) = match error.code {
            ErrorCode::InvalidClient if about_document => (
                StatusCode::BAD_REQUEST,
                "This app cannot be checked",
                "The app that sent you here says who it is with a document on its own site, and that document cannot be \
                 used.",
                "Try again in a few minutes. If it stays this way, tell the app\u{2019}s makers what stands below.",
            ),
            ErrorCode::InvalidClient => (
                StatusCode::BAD_REQUEST,
                "This app is not known here",
                "The app that sent you here uses a registration that this gateway does not have, or no longer has.",
                "In the app, remove this server, clear its saved sign-in, and add the server again: the app then registers \
                 anew.",
            ),
            ErrorCode::TemporarilyUnavailable | ErrorCode::ServerError => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Something is not working here",
                "The gateway cannot answer at the moment. Nothing was allowed and nothing was changed.",
                "Try again in a moment. If it stays this way, tell whoever runs this gateway.",
            ),
            _ => (
                StatusCode::BAD_REQUEST,
                "This request cannot be answered",
                "The app sent you here with a request that this gateway does not accept, and that it cannot safely send \
                 back to the app.",
                "Go back to the app and try again. If it stays this way, tell the app\u{2019}s makers what stands below.",
            ),
        };
        Self {
            status,
            title,
            what: what.to_owned(),
            advice,
            code: error.code.as_str(),
            detail: Some(error.description.clone().into_owned()),
        }
    }

    /// A page of ours that was opened by itself.
    pub(in crate::oauth) fn no_request() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "Start from the app",
            what: "This page belongs to an app that asks for access, and there is no such request in the address."
                .to_owned(),
            advice: "Open the app and connect to the server from there.",
            code: "no_request",
            detail: None,
        }
    }

    /// The browser's cookie does not go with the request.
    pub(in crate::oauth) fn other_browser() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            title: "This request belongs to another browser",
            what: "It was started in another browser or window, more than ten minutes ago, or cookies are blocked."
                .to_owned(),
            advice: "Allow cookies for this site, go back to the app and try again. If somebody sent you this link, close \
                     the page.",
            code: "other_browser",
            detail: None,
        }
    }

    /// The request was answered, or waited too long.
    pub(in crate::oauth) fn lapsed() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "This request is over",
            what: "It was answered already, or more than ten minutes have passed.".to_owned(),
            advice: "If the app is not connected yet, go back to it and try again.",
            code: "request_over",
            detail: None,
        }
    }

    /// A form without its token, or with that of another page.
    pub(in crate::oauth) fn stale_form() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            title: "This page is out of date",
            what: "You signed in or out in another tab since this page was shown, or the form was not sent from it. \
                   Nothing was changed."
                .to_owned(),
            advice: "Go back, reload the page and try again.",
            code: "stale_form",
            detail: None,
        }
    }

    /// A form that the browser says was sent from another site.
    pub(in crate::oauth) fn foreign_form(at: &Endpoints) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            title: "This form came from another site",
            what: format!(
                "It was not sent from a page of {}. Nothing was changed.",
                at.config.public_url.origin
            ),
            advice: "Go back to the app and try again.",
            code: "foreign_form",
            detail: None,
        }
    }

    /// The address of a provider that is not configured.
    pub(in crate::oauth) fn no_such_provider() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            title: "Nobody signs in this way",
            what: "This gateway does not know the place that the address names.".to_owned(),
            advice: "Go back to the app and try again.",
            code: "no_such_provider",
            detail: None,
        }
    }

    /// Too many requests from this address.
    pub(in crate::oauth) fn too_often(wait: Duration) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            title: "Too many requests",
            what: format!(
                "Your network has asked for this page too often. It is there again in {}.",
                words::duration(wait)
            ),
            advice: "Wait a moment and try again. If it stays this way, tell whoever runs this gateway.",
            code: "too_many_requests",
            detail: None,
        }
    }

    /// The page.
    pub(in crate::oauth) fn answer(&self, at: &Endpoints) -> Answer {
        let body = html! {
            h1 { (self.title) }
            p .lead { (self.what) }
            p { (self.advice) }
            dl .details {
                dt { "Error" }
                dd { code { (self.code) } @if let Some(detail) = &self.detail { small { (detail) } } }
            }
        };
        let mut answer = page(at, self.status, self.title, &body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}
