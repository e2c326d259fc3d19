//! What each event does to the records. Every function here runs alone, on a [`Change`] that is applied as a whole.

use ::sled::Db;

use super::change::Change;
use super::records::{Consent, SigningKey, expiry_key, key};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, ConsentKey, Grant, GrantId, RefreshToken, Session, Succession,
};
use crate::domain::person::SessionDetails;
use crate::domain::scope::Scope;
use crate::domain::secret::{SecretHash, random_bytes};
use crate::store::{Approval, Issued, MAX_CODE_ATTEMPTS, Redemption, Rotation, StoreError};

type Outcome<T> = Result<T, StoreError>;

// --- the browser

pub(super) fn note_sign_in(change: &mut Change<'_>, id: &SecretHash) -> Outcome<()> {
    match change.get::<AuthorizationRequest>(id)? {
        Some(request) => change.put(
            id,
            &AuthorizationRequest {
                sign_in_again: false,
                ..request
            },
        ),
        None => Ok(()),
    }
}

pub(super) fn approve(
    change: &mut Change<'_>,
    id: Option<&SecretHash>,
    (code_id, code): (&SecretHash, &AuthorizationCode),
    remember: Option<(&ConsentKey, &Scope)>,
) -> Outcome<Approval> {
    // First of all, so that the client is needed without a break.
    change.hold(&code.client_id, code_id.as_bytes())?;
    if let Some(id) = id
        && !change.remove_authorization(id)?
    {
        change.release(&code.client_id, code_id.as_bytes(), code.authenticated_at)?;
        return Ok(Approval::Gone);
    }
    change.put_expiring(code_id, code)?;
    if let Some((key, scope)) = remember {
        let before = change.get::<Consent>(key)?.unwrap_or_else(|| Consent::none(key));
        let scope = before.scope.union(scope);
        change.put(key, &Consent { scope, ..before })?;
    }
    Ok(Approval::Done)
}

pub(super) fn begin_session(
    change: &mut Change<'_>,
    id: &SecretHash,
    session: &Session,
    previous: Option<&SecretHash>,
) -> Outcome<()> {
    if let Some(previous) = previous {
        change.remove_session(previous)?;
    }
    change.begin_session(id, session)
}

/// Moves the end of a session that is there.
pub(super) fn extend_session(
    change: &mut Change<'_>,
    id: &SecretHash,
    expires_at: Timestamp,
    seen_at: Timestamp,
) -> Outcome<()> {
    match change.get::<Session>(id)? {
        Some(session) => {
            let key = key::<Session>(id);
            change.erase(expiry_key(session.expires_at, &key));
            let details = SessionDetails {
                seen_at: Some(seen_at),
                ..session.details.clone()
            };
            let session = Session {
                expires_at,
                details,
                ..session
            };
            change.put_expiring(id, &session)
        }
        None => Ok(()),
    }
}

// --- tokens

pub(super) fn note_failed_attempt(change: &mut Change<'_>, id: &SecretHash) -> Outcome<()> {
    match change.get::<AuthorizationCode>(id)? {
        Some(code) => change.put(
            id,
            &AuthorizationCode {
                failed_attempts: code.failed_attempts.saturating_add(1),
                ..code
            },
        ),
        None => Ok(()),
    }
}

/// RFC 6749 §4.1.2: a used code stays, so that a replay is known for one, and for which grant.
pub(super) fn redeem_code(
    change: &mut Change<'_>,
    id: &SecretHash,
    grant: &Grant,
    issued: &Issued,
) -> Outcome<Redemption> {
    let Some(code) = change.get::<AuthorizationCode>(id)? else {
        return Ok(Redemption::Unknown);
    };
    if let Some(earlier) = code.redeemed {
        return Ok(Redemption::AlreadyUsed(earlier));
    }
    if code.failed_attempts >= MAX_CODE_ATTEMPTS {
        return Ok(Redemption::Unknown);
    }
    change.put(
        id,
        &AuthorizationCode {
            redeemed: Some(issued.grant_id),
            ..code
        },
    )?;
    change.put_grant(&issued.grant_id, grant, Some(issued.access.1.issued_at))?;
    // From here on the grant is what the client is needed for.
    change.release(&grant.client_id, id.as_bytes(), issued.access.1.issued_at)?;
    put_tokens(change, issued)?;
    Ok(Redemption::Done)
}

pub(super) fn issue(change: &mut Change<'_>, grant: &Grant, issued: &Issued) -> Outcome<()> {
    change.put_grant(&issued.grant_id, grant, None)?;
    put_tokens(change, issued)
}

/// RFC 9700 §4.14.2: a rotated token stays, so that a replay is known for one. The grant is read here, under the same
/// lock, so that no rotation brings a revoked family back.
pub(super) fn rotate(
    change: &mut Change<'_>,
    id: &SecretHash,
    succession: &Succession,
    issued: &Issued,
) -> Outcome<Rotation> {
    let Some(token) = change.get::<RefreshToken>(id)? else {
        return Ok(Rotation::Unknown);
    };
    let Some(grant) = change
        .get::<Grant>(&token.grant)?
        .filter(|_| token.grant == issued.grant_id)
    else {
        return Ok(Rotation::Unknown);
    };
    if let Some(earlier) = token.rotated {
        return Ok(Rotation::AlreadyRotated(earlier));
    }
    change.put(
        id,
        &RefreshToken {
            rotated: Some(succession.clone()),
            ..token
        },
    )?;
    change.note_refresh(&grant, issued)?;
    put_tokens(change, issued)?;
    Ok(Rotation::Done)
}

pub(super) fn put_tokens(change: &mut Change<'_>, issued: &Issued) -> Outcome<()> {
    let (id, token) = &issued.access;
    change.put_expiring(id, token)?;
    if let Some((id, token)) = &issued.refresh {
        change.put_expiring(id, token)?;
    }
    Ok(())
}

pub(super) fn revoke_access_token(change: &mut Change<'_>, id: &SecretHash) -> Outcome<()> {
    change.remove_expiring::<AccessToken>(id).map(drop)
}

pub(super) fn revoke_grant(change: &mut Change<'_>, id: &GrantId) -> Outcome<()> {
    change.remove_grant(id)
}

// --- upkeep

pub(super) fn signing_key(change: &mut Change<'_>, name: &str) -> Outcome<[u8; 32]> {
    if let Some(SigningKey(known)) = change.get(name)? {
        return Ok(*known.as_bytes());
    }
    let fresh = random_bytes();
    change.put(name, &SigningKey(SecretHash::from_bytes(fresh)))?;
    Ok(fresh)
}

/// A record outside of any change.
pub(super) fn find<R: super::records::Record>(
    tree: &Db,
    id: &(impl super::records::Id + ?Sized),
) -> Outcome<Option<R>> {
    let found = tree.get(key::<R>(id)).map_err(super::backend("reading a record"))?;
    found.map(|bytes| super::records::decode(&bytes)).transpose()
}
