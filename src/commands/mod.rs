//! The commands that administer a running gateway: `mcpgate users`, `clients`, `grants` and `tokens`. They ask its admin
//! listener, as any program may.

mod ask;
pub mod audit;
pub mod password;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::identity::password::generated;
use ask::{Gateway, Question};
use table::Column;

const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// What can be administered.
#[derive(Subcommand)]
pub enum Administration {
    /// See and change who can sign in (needs admin.token, and a running gateway)
    Users {
        /// What to do
        #[command(subcommand)]
        act: Users,
        /// Where, and how to show it
        #[command(flatten)]
        at: At,
    },
    /// See clients, end what they were allowed, remove them
    Clients {
        /// What to do
        #[command(subcommand)]
        act: Clients,
        /// Where, and how to show it
        #[command(flatten)]
        at: At,
    },
    /// See who allowed which client what, and end it
    Grants {
        /// What to do
        #[command(subcommand)]
        act: Grants,
        /// Where, and how to show it
        #[command(flatten)]
        at: At,
    },
    /// See the grants whose tokens can be used now, and end them
    Tokens {
        /// What to do
        #[command(subcommand)]
        act: Grants,
        /// Where, and how to show it
        #[command(flatten)]
        at: At,
    },
}

/// Which gateway, and how to show what it says.
#[derive(Args)]
pub struct At {
    /// The configuration, for admin.listen and admin.token [default: gateway.yaml]
    #[arg(short, long = "config", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The admin listener, if not the configuration's
    #[arg(long, value_name = "URL", global = true)]
    pub admin: Option<String>,
    /// A file with the admin token
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help = "A file with the admin token [default: $MCPGATE_ADMIN_TOKEN, else the configuration's]"
    )]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done about people.
#[derive(Subcommand)]
pub enum Users {
    /// Add an account; asks for its password, or reads it from standard input
    Add {
        /// What is typed into the sign-in form
        username: String,
        /// The e-mail address
        #[arg(long)]
        email: Option<String>,
        /// The full name
        #[arg(long)]
        name: Option<String>,
        /// A group; may be given several times
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Make up a password that has to be changed, and print it once
        #[arg(long)]
        generate: bool,
    },
    /// List people
    List(Search),
    /// Keep somebody from signing in, and end their sessions and tokens at once
    Disable(Somebody),
    /// Let somebody sign in again
    Enable(Somebody),
    /// Forget the second factor of somebody who has lost it, and end their sessions
    ForgetFactor(Somebody),
    /// Give an account another password, which has to be changed
    Reset {
        /// Who
        #[command(flatten)]
        who: Somebody,
        /// Make up a password, and print it once
        #[arg(long)]
        generate: bool,
    },
    /// Remove an account, and end its sessions and tokens
    Remove(Somebody),
}

/// What can be done about clients.
#[derive(Subcommand)]
pub enum Clients {
    /// List clients
    List(Search),
    /// End everything that a client was allowed, by anybody
    Revoke {
        /// The client's id
        client_id: String,
    },
    /// Forget a client that registered itself
    Remove {
        /// The client's id
        client_id: String,
    },
}

/// What can be done about grants and their tokens.
#[derive(Subcommand)]
pub enum Grants {
    /// List them
    List {
        /// Of this person only
        #[arg(long)]
        subject: Option<String>,
        /// Of this client only
        #[arg(long)]
        client: Option<String>,
        /// For this upstream only
        #[arg(long)]
        upstream: Option<String>,
        /// More of what to list
        #[command(flatten)]
        search: Search,
    },
    /// End one by its id, or all of a person, and every token of them
    Revoke {
        /// The id that `list` shows
        #[arg(required_unless_present = "subject", conflicts_with = "subject")]
        id: Option<String>,
        /// All of this person
        #[arg(long)]
        subject: Option<String>,
        /// Of this person, those with this client
        #[arg(long, requires = "subject")]
        client: Option<String>,
    },
}

/// Whom a command is about.
#[derive(Args)]
pub struct Somebody {
    /// The subject that `users list` shows; of an account here, its username
    subject: String,
}

/// Which entries of a list.
#[derive(Args)]
pub struct Search {
    /// Only entries with this text in them
    #[arg(long)]
    search: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

/// Why a command was not done.
pub(crate) enum Stop {
    /// It was not understood, or the configuration lacks what is needed.
    Wrong(String),
    /// It was, and failed.
    Failed(String),
}

/// What a command shows when it is done.
enum Done {
    /// A list.
    List(Vec<Value>, &'static [Column], bool),
    /// A sentence, and the same for programs.
    Said(String, Value),
}

impl Administration {
    /// Does it. `configuration` is what stands before the command's name.
    pub async fn run(self, configuration: Option<PathBuf>) -> ExitCode {
        let at = self.at();
        let json = at.json;
        let done = match Gateway::of(at, configuration) {
            Ok(gateway) => self.act(&gateway).await,
            Err(stop) => Err(stop),
        };
        match done {
            Ok(done) => {
                done.show(json);
                ExitCode::SUCCESS
            }
            Err(Stop::Wrong(message)) => {
                eprintln!("mcpgate: {}", message.trim_end());
                ExitCode::from(WRONG)
            }
            Err(Stop::Failed(message)) => {
                eprintln!("mcpgate: {message}");
                ExitCode::from(FAILED)
            }
        }
    }

    const fn at(&self) -> &At {
        match self {
            Self::Users { at, .. } | Self::Clients { at, .. } | Self::Grants { at, .. } | Self::Tokens { at, .. } => at,
        }
    }

    async fn act(&self, gateway: &Gateway) -> Result<Done, Stop> {
        match self {
            Self::Users { act, .. } => users(gateway, act).await,
            Self::Clients { act, .. } => clients(gateway, act).await,
            Self::Grants { act, .. } => grants(gateway, "grants", act).await,
            Self::Tokens { act, .. } => grants(gateway, "tokens", act).await,
        }
    }
}

async fn users(gateway: &Gateway, act: &Users) -> Result<Done, Stop> {
    let put = async |subject: &str, act: &str, said: &str| {
        let user = gateway.ask(Question::post(&["users", subject, act], None)).await?;
        Ok(Done::Said(format!("{} {said}", table::plain(subject)), user))
    };
    match act {
        Users::List(search) => list(gateway, "users", &[], search, table::USERS).await,
        Users::Add {
            username,
            email,
            name,
            groups,
            generate,
        } => {
            let password = new_password(*generate)?;
            let mut body = Map::new();
            body.insert("username".to_owned(), json!(username));
            body.insert("password".to_owned(), json!(password.as_str()));
            body.insert("groups".to_owned(), json!(groups));
            body.insert("must_change".to_owned(), json!(generate));
            for (key, value) in [("email", email), ("name", name)] {
                if let Some(value) = value {
                    body.insert(key.to_owned(), json!(value));
                }
            }
            let user = gateway
                .ask(Question::post(&["users"], Some(&Value::Object(body))))
                .await?;
            Ok(with_password(username, "was added", user, &password, *generate))
        }
        Users::Disable(who) => put(&who.subject, "disable", "is disabled; their sessions and tokens ended").await,
        Users::Enable(who) => put(&who.subject, "enable", "can sign in again").await,
        Users::ForgetFactor(who) => {
            let said = "has no second factor any more; their sessions ended";
            put(&who.subject, "forget-factor", said).await
        }
        Users::Reset { who, generate } => {
            let password = new_password(*generate)?;
            let body = json!({ "password": password.as_str() });
            let user = gateway
                .ask(Question::post(&["users", &who.subject, "reset"], Some(&body)))
                .await?;
            let said = "has another password, which has to be changed; their sessions ended";
            Ok(with_password(&who.subject, said, user, &password, *generate))
        }
        Users::Remove(who) => {
            let removed = gateway.ask(Question::delete(&["users", &who.subject])).await?;
            Ok(Done::Said(
                format!("{} was removed", table::plain(&who.subject)),
                removed,
            ))
        }
    }
}

async fn clients(gateway: &Gateway, act: &Clients) -> Result<Done, Stop> {
    match act {
        Clients::List(search) => list(gateway, "clients", &[], search, table::CLIENTS).await,
        Clients::Revoke { client_id } => {
            let answer = gateway
                .ask(Question::post(&["clients", client_id, "revoke"], None))
                .await?;
            Ok(revoked(answer))
        }
        Clients::Remove { client_id } => {
            let removed = gateway.ask(Question::delete(&["clients", client_id])).await?;
            Ok(Done::Said(format!("{} was removed", table::plain(client_id)), removed))
        }
    }
}

async fn grants(gateway: &Gateway, kind: &'static str, act: &Grants) -> Result<Done, Stop> {
    match act {
        Grants::List {
            subject,
            client,
            upstream,
            search,
        } => {
            let filters = [("subject", subject), ("client", client), ("upstream", upstream)];
            let given = filters
                .iter()
                .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
            list(gateway, kind, &given.collect::<Vec<_>>(), search, table::GRANTS).await
        }
        Grants::Revoke { id: Some(id), .. } => {
            let answer = gateway.ask(Question::post(&[kind, id, "revoke"], None)).await?;
            Ok(revoked(answer))
        }
        Grants::Revoke { subject, client, .. } => {
            let body = match client {
                Some(client) => json!({ "subject": subject, "client": client }),
                None => json!({ "subject": subject }),
            };
            let answer = gateway.ask(Question::post(&[kind, "revoke"], Some(&body))).await?;
            Ok(revoked(answer))
        }
    }
}

async fn list(
    gateway: &Gateway,
    kind: &'static str,
    filters: &[(&str, &str)],
    search: &Search,
    columns: &'static [Column],
) -> Result<Done, Stop> {
    let mut query = filters.to_vec();
    query.extend(search.search.as_deref().map(|text| ("search", text)));
    let (entries, more) = gateway.list(kind, &query, search.limit).await?;
    Ok(Done::List(entries, columns, more))
}

fn new_password(generate: bool) -> Result<Zeroizing<String>, Stop> {
    if generate {
        return Ok(generated());
    }
    password::read().map_err(Stop::Wrong)
}

/// A password that was made up is shown this once; one that was typed is not.
fn with_password(who: &str, said: &str, user: Value, password: &str, generated: bool) -> Done {
    let who = table::plain(who);
    if !generated {
        return Done::Said(format!("{who} {said}"), user);
    }
    let both = json!({ "user": user, "password": password });
    Done::Said(format!("{who} {said}\nPassword, shown this once: {password}"), both)
}

fn revoked(answer: Value) -> Done {
    let said = match answer["revoked"].as_u64() {
        Some(0) => "There was nothing to revoke".to_owned(),
        Some(1) => "1 grant was revoked, with its tokens".to_owned(),
        Some(count) => format!("{count} grants were revoked, with their tokens"),
        None => "It was revoked".to_owned(),
    };
    Done::Said(said, answer)
}

impl Done {
    fn show(&self, json: bool) {
        use std::io::Write as _;
        let text = match self {
            Self::List(entries, _, _) if json => format!("{:#}\n", Value::Array(entries.clone())),
            Self::Said(_, value) if json => format!("{value:#}\n"),
            Self::List(entries, columns, _) => table::drawn(columns, entries),
            Self::Said(sentence, _) => format!("{sentence}\n"),
        };
        // Whoever closed the pipe has read enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        if matches!(self, Self::List(_, _, true)) {
            eprintln!("mcpgate: there are more; use --search or a larger --limit");
        }
    }
}
