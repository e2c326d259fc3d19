//! People, their sessions and their grants.

use async_trait::async_trait;

use ::sled::Db;

use super::change::Change;
use super::events::find;
use super::records::{
    Consent, client_grant_key, consents_for, grants_of, grants_of_subject, key, prefix, sessions_of,
    subject_grants_built_key,
};
use super::{SledStore, backend};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::Timestamp;
use crate::domain::grant::{Grant, GrantId, Session};
use crate::domain::person::{Person, ProviderLink, Source};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::store::{Addition, Admitted, Chosen, Listed, People, Room, StoreError};

type Outcome<T> = Result<T, StoreError>;

#[async_trait]
impl People for SledStore {
    async fn person(&self, subject: &Subject) -> Outcome<Option<Person>> {
        self.look("person", |tree| find(tree, subject))
    }

    async fn people(&self, after: Option<&Subject>, limit: usize) -> Outcome<Vec<Person>> {
        self.list("people", prefix::PERSON, after.map(key::<Person>), limit, |_, value| {
            super::records::decode(value)
        })
    }

    async fn admit_person(&self, person: &Person) -> Outcome<Admitted> {
        let (admission, is_other) = self.write("admit_person", |change| change.admit_person(person)).await?;
        if is_other {
            self.shared.count_revocation();
        }
        Ok(admission)
    }

    async fn note_link(&self, subject: &Subject, link: &ProviderLink) -> Outcome<()> {
        self.write("note_link", |change| match change.get::<Person>(subject)? {
            Some(person) => change.put(
                subject,
                &Person {
                    link: Some(link.clone()),
                    ..person
                },
            ),
            None => Ok(()),
        })
        .await
    }

    async fn add_person(&self, person: &Person) -> Outcome<Addition> {
        self.write("add_person", |change| {
            if change.get::<Person>(&person.user.subject)?.is_some() {
                return Ok(Addition::Taken);
            }
            if change.counts().people >= change.limits().people {
                return Ok(Addition::Full);
            }
            change.put(&person.user.subject, person)?;
            Ok(Addition::Done)
        })
        .await
    }

    async fn set_password(&self, subject: &Subject, hash: &str, chosen: Chosen<'_>) -> Outcome<bool> {
        let keep = match chosen {
            Chosen::ByThem(keep) => keep,
            Chosen::ForThem => None,
        };
        self.revoke("set_password", |change| {
            let Some(person) = change
                .get::<Person>(subject)?
                .filter(|person| person.source == Source::Store)
            else {
                return Ok(false);
            };
            let person = Person {
                password_hash: Some(hash.to_owned()),
                must_change: chosen == Chosen::ForThem,
                ..person
            };
            change.put(subject, &person)?;
            change.end_sessions_of(subject, keep)?;
            Ok(true)
        })
        .await
    }

    async fn set_disabled(&self, person: &Person, disabled: bool) -> Outcome<Room> {
        let subject = &person.user.subject;
        self.revoke("set_disabled", |change| {
            let known = change.get::<Person>(subject)?;
            if known.is_none() && change.counts().people >= change.limits().people {
                return Ok(Room::Full);
            }
            let person = known.unwrap_or_else(|| person.clone());
            change.put(subject, &Person { disabled, ..person })?;
            if disabled {
                change.end_sessions_of(subject, None)?;
                change.revoke_grants_of(subject, None)?;
            }
            Ok(Room::Kept)
        })
        .await
    }

    async fn remove_person(&self, subject: &Subject) -> Outcome<bool> {
        self.revoke("remove_person", |change| {
            let known = change.has(&key::<Person>(subject))?;
            change.remove(key::<Person>(subject))?;
            change.forget_factors(subject)?;
            change.end_sessions_of(subject, None)?;
            change.revoke_grants_of(subject, None)?;
            Ok(known)
        })
        .await
    }

    async fn sessions_of(&self, subject: &Subject) -> Outcome<Vec<(SecretHash, Session)>> {
        self.look("sessions_of", |tree| {
            let mut found = Vec::new();
            for entry in tree.scan_prefix(sessions_of(subject)).keys() {
                let entry = entry.map_err(backend("reading an index"))?;
                if let Some(id) = last(&entry).map(SecretHash::from_bytes)
                    && let Some(session) = find::<Session>(tree, &id)?
                {
                    found.push((id, session));
                }
            }
            Ok(Some(found))
        })
        .map(Option::unwrap_or_default)
    }

    async fn end_sessions_of(&self, subject: &Subject, keep: Option<&SecretHash>) -> Outcome<usize> {
        self.revoke("end_sessions_of", |change| change.end_sessions_of(subject, keep))
            .await
    }

    async fn grants_of(&self, subject: &Subject, limit: usize) -> Outcome<Vec<Listed>> {
        self.look("grants_of", |tree| {
            let mut found = Vec::new();
            for entry in tree.scan_prefix(grants_of_subject(subject)).keys().take(limit) {
                let entry = entry.map_err(backend("reading an index"))?;
                if let Some(id) = last(&entry).map(GrantId::from_bytes)
                    && let Some(grant) = find::<Grant>(tree, &id)?
                {
                    found.push(listed(tree, id, grant)?);
                }
            }
            Ok(Some(found))
        })
        .map(Option::unwrap_or_default)
    }

    async fn grant(&self, id: &GrantId) -> Outcome<Option<Listed>> {
        self.look("grant", |tree| {
            find::<Grant>(tree, id)?
                .map(|grant| listed(tree, *id, grant))
                .transpose()
        })
    }

    async fn note_used(&self, id: &GrantId, at: Timestamp) -> Outcome<()> {
        self.write("note_used", |change| match change.get::<Grant>(id)? {
            Some(grant) => {
                let used_at = Some(at);
                change.put(id, &Grant { used_at, ..grant })
            }
            None => Ok(()),
        })
        .await
    }

    async fn grants(&self, after: Option<&GrantId>, limit: usize) -> Outcome<Vec<Listed>> {
        let active = self.shared.active();
        self.list(
            "grants",
            prefix::GRANT,
            after.map(key::<Grant>),
            limit,
            |entry, value| {
                let id = last(entry).map(GrantId::from_bytes).ok_or(StoreError::Corrupt {
                    kind: "grant",
                    detail: "its key is too short".to_owned(),
                })?;
                listed(&active.tree, id, super::records::decode(value)?)
            },
        )
    }

    async fn revoke_grants_of(&self, subject: &Subject, client: Option<&ClientId>) -> Outcome<usize> {
        self.revoke("revoke_grants_of", |change| change.revoke_grants_of(subject, client))
            .await
    }

    async fn revoke_grants_for(&self, client: &ClientId) -> Outcome<usize> {
        self.revoke("revoke_grants_for", |change| {
            let entries = change.keys_under(&grants_of(client), usize::MAX)?;
            for id in entries.iter().filter_map(|entry| last(entry)) {
                change.remove_grant(&GrantId::from_bytes(id))?;
            }
            for consent in change.keys_under(&consents_for(client), usize::MAX)? {
                change.erase(consent);
            }
            Ok(entries.len())
        })
        .await
    }

    async fn clients(&self, after: Option<&ClientId>, limit: usize) -> Outcome<Vec<Client>> {
        self.list(
            "clients",
            prefix::CLIENT,
            after.map(key::<Client>),
            limit,
            |_, value| super::records::decode(value),
        )
    }
}

impl SledStore {
    /// The records of a kind from behind a key; at most `limit`.
    fn list<T>(
        &self,
        name: &'static str,
        prefix: u8,
        after: Option<Vec<u8>>,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Outcome<T>,
    ) -> Outcome<Vec<T>> {
        self.look(name, |tree| {
            let after = after.unwrap_or_else(|| vec![prefix]);
            let range = (
                std::ops::Bound::Excluded(after),
                std::ops::Bound::Excluded(vec![prefix.saturating_add(1)]),
            );
            let entries = tree.range::<Vec<u8>, _>(range).take(limit).map(|entry| {
                let (entry, value) = entry.map_err(backend("reading a record"))?;
                read(&entry, &value)
            });
            entries.collect::<Outcome<Vec<T>>>().map(Some)
        })
        .map(Option::unwrap_or_default)
    }
}

impl Change<'_> {
    /// See [`People::admit_person`]; whether they were known as somebody else too.
    fn admit_person(&mut self, person: &Person) -> Outcome<(Admitted, bool)> {
        let subject = &person.user.subject;
        let Some(known) = self.get::<Person>(subject)? else {
            if self.counts().people >= self.limits().people {
                return Ok((Admitted::Full, false));
            }
            self.put(subject, person)?;
            return Ok((Admitted::Kept, false));
        };
        if known.source == Source::Store && person.source != Source::Store {
            return Ok((Admitted::Taken, false));
        }
        let is_other = known.user != person.user || known.source != person.source;
        self.put(
            subject,
            &Person {
                disabled: known.disabled,
                created_at: known.created_at,
                ..person.clone()
            },
        )?;
        Ok((Admitted::Kept, is_other))
    }

    fn end_sessions_of(&mut self, subject: &Subject, keep: Option<&SecretHash>) -> Outcome<usize> {
        let mut ended = 0;
        for entry in self.keys_under(&sessions_of(subject), usize::MAX)? {
            let Some(id) = last(&entry).map(SecretHash::from_bytes) else {
                continue;
            };
            if keep != Some(&id) {
                self.erase(entry);
                self.remove_session(&id)?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    fn revoke_grants_of(&mut self, subject: &Subject, client: Option<&ClientId>) -> Outcome<usize> {
        let mut ended = 0;
        for entry in self.keys_under(&grants_of_subject(subject), usize::MAX)? {
            let Some(id) = last(&entry).map(GrantId::from_bytes) else {
                continue;
            };
            let grant = self.get::<Grant>(&id)?;
            if grant.is_some_and(|grant| client.is_none_or(|client| grant.client_id == *client)) {
                self.remove_grant(&id)?;
                ended += 1;
            }
        }
        // What is remembered would give the next authorization without a question.
        let consents = client.map_or_else(|| vec![prefix::CONSENT], consents_for);
        for entry in self.keys_under(&consents, usize::MAX)? {
            let consent = self.read::<Consent>(&entry)?;
            if consent.is_some_and(|consent| consent.subject == subject.as_str()) {
                self.erase(entry);
            }
        }
        Ok(ended)
    }
}

/// A grant with the time of its last tokens, which an index has.
fn listed(tree: &Db, id: GrantId, grant: Grant) -> Outcome<Listed> {
    let value = tree
        .get(client_grant_key(&grant, &id))
        .map_err(backend("reading an index"))?;
    let used_at = value
        .and_then(|value| <[u8; 8]>::try_from(value.get(..8)?).ok())
        .map(|bytes| Timestamp::from_millis(u64::from_be_bytes(bytes)));
    Ok(Listed { id, grant, used_at })
}

/// The id at the end of an entry.
fn last<const N: usize>(entry: &[u8]) -> Option<[u8; N]> {
    let start = entry.len().checked_sub(N)?;
    entry.get(start..).and_then(|id| <[u8; N]>::try_from(id).ok())
}

/// Makes the index of grants by subject, where a store was written before there was one.
pub(super) fn index_grants(tree: &Db) -> Outcome<()> {
    let built = subject_grants_built_key();
    if tree.contains_key(&built).map_err(backend("reading an index"))? {
        return Ok(());
    }
    let mut batch = ::sled::Batch::default();
    for entry in tree.scan_prefix([prefix::GRANT]) {
        let (entry, value) = entry.map_err(backend("reading a record"))?;
        // One that cannot be read is swept in its time.
        if let (Some(id), Ok(grant)) = (last(&entry), super::records::decode::<Grant>(&value)) {
            batch.insert(
                super::records::subject_grant_key(&grant, &GrantId::from_bytes(id)),
                vec![],
            );
        }
    }
    batch.insert(built, vec![]);
    tree.apply_batch(batch).map_err(backend("indexing grants"))?;
    tree.flush().map_err(backend("indexing grants")).map(drop)
}
