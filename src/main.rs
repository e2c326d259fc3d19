//! The program: commands, signals, exit codes. 0 fine; 1 it failed while running; 2 wrong usage or a bad configuration.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use mcpgate::app::{self, Running};
use mcpgate::commands::audit::Audit;
use mcpgate::commands::{self, Administration, password};
use mcpgate::config::{self, Config};
use mcpgate::domain::clock::{Clock as _, SystemClock};
use mcpgate::telemetry::access::{self, Form};
use mcpgate::telemetry::lines::Lines;
use mcpgate::{demo, identity};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Measured against glibc's in docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
const WRONG: u8 = 2;
/// Open files that we ask the system for: a stream takes two.
const WANTED_FILES: u64 = 65_536;

/// OAuth in front of MCP servers that know nothing of it.
#[derive(Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    configuration: ConfigurationFile,
    /// How log lines look
    #[arg(long, value_enum, global = true, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (the default)
    Serve {
        #[command(flatten)]
        configuration: ConfigurationFile,
        /// Take changes of the configuration and of the files that it names, as SIGHUP does
        #[arg(long)]
        watch: bool,
    },
    /// Run it with a small MCP server built in and nothing to configure
    Demo,
    /// Read and check the configuration; print every problem
    Check(ConfigurationFile),
    /// Read a password from the terminal or standard input and print its hash for `users`
    HashPassword,
    /// Check an audit log
    #[command(subcommand)]
    Audit(Audit),
    #[command(flatten)]
    Administration(Administration),
}

#[derive(clap::Args, Clone)]
struct ConfigurationFile {
    /// The configuration [default: gateway.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve {
        configuration: arguments.configuration.clone(),
        watch: false,
    }) {
        Command::Serve { configuration, watch } => {
            let path = configuration.or(&arguments.configuration);
            match load(&path) {
                Ok(config) => run(arguments.log_format, serve(config, path, watch)),
                Err(code) => code,
            }
        }
        Command::Demo => run(arguments.log_format, run_demo()),
        Command::Check(own) => check(&own.or(&arguments.configuration)),
        Command::HashPassword => hash_password(),
        Command::Audit(command) => commands::audit::run(&command),
        Command::Administration(command) => administer(command, arguments.configuration.config),
    }
}

impl ConfigurationFile {
    /// `mcpgate serve -c x` and `mcpgate -c x serve` are both natural to type.
    fn or(&self, other: &Self) -> PathBuf {
        self.config
            .clone()
            .or_else(|| other.config.clone())
            .unwrap_or_else(|| PathBuf::from("gateway.yaml"))
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path).map_err(|problems| {
        eprint!("{problems}");
        ExitCode::from(WRONG)
    })
}

fn check(path: &Path) -> ExitCode {
    match load(path) {
        Ok(config) => {
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{}: fine", path.display());
            let now = SystemClock.now();
            for certificate in config.certificates() {
                let state = if certificate.is_valid_at(now) {
                    ""
                } else {
                    "  NOT VALID NOW"
                };
                let _ = writeln!(
                    out,
                    "  certificate for {}, valid until {}{state}",
                    certificate.names().join(", "),
                    certificate.expiry_date(),
                );
            }
            for upstream in &config.upstreams {
                let scheme = if upstream.url.tls { "https" } else { "http" };
                let _ = writeln!(
                    out,
                    "  {}  {} -> {scheme}://{}{}",
                    upstream.name, upstream.resource, upstream.url.authority, upstream.url.path
                );
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn hash_password() -> ExitCode {
    match password::read()
        .and_then(|password| identity::local::hash_password(&password).map_err(|error| error.to_string()))
    {
        Ok(hash) => {
            let written = writeln!(std::io::stdout(), "{hash}");
            if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILED)
            }
        }
        Err(message) => {
            eprintln!("mcpgate: {message}");
            ExitCode::from(WRONG)
        }
    }
}

/// Asks a gateway that runs.
fn administer(command: Administration, configuration: Option<PathBuf>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command.run(configuration)),
        Err(error) => failed(&format!("cannot start: {error}")),
    }
}

/// Runs a command that serves until it is told to stop.
fn run(format: LogFormat, command: impl Future<Output = ExitCode>) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,pingora_core=error,pingora_proxy=error,rmcp=warn,webauthn_rs=off,webauthn_rs_core=off")
    });
    let lines = match Lines::to(std::io::stderr()) {
        Ok(lines) => lines,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_ansi(std::io::stderr().is_terminal());
    // In a terminal lines have colours.
    if !std::io::stderr().is_terminal() {
        access::write_to(
            lines.clone(),
            match format {
                LogFormat::Text => Form::Text,
                LogFormat::Json => Form::Json,
            },
        );
    }
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    raise_file_limit();
    let ended = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => failed(&format!("cannot start: {error}")),
    };
    lines.flush();
    ended
}

async fn serve(config: Config, path: PathBuf, watch: bool) -> ExitCode {
    let started = match Signals::listen() {
        Ok(signals) => app::start(config, Arc::new(SystemClock))
            .await
            .map(|running| (running, signals))
            .map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot listen for signals: {error}")),
    };
    match started {
        Ok((running, signals)) => {
            announce(&running);
            let mut running = running;
            running.follow(path, watch);
            until_told_to_stop(running, signals).await
        }
        Err(message) => failed(&message),
    }
}

async fn run_demo() -> ExitCode {
    let started = match Signals::listen() {
        Ok(signals) => demo::run().await.map(|demo| (demo, signals)),
        Err(error) => Err(format!("cannot listen for signals: {error}")),
    };
    match started {
        Ok(((running, _directory, introduction), signals)) => {
            announce(&running);
            // A terminal that is gone is no reason not to serve.
            let _ = write!(std::io::stdout(), "{introduction}");
            until_told_to_stop(running, signals).await
        }
        Err(message) => failed(&message),
    }
}

fn announce(running: &Running) {
    for address in &running.addresses {
        eprintln!(
            "mcpgate {} listening on {address} (admin on {})",
            env!("CARGO_PKG_VERSION"),
            running.admin
        );
    }
}

fn failed(message: &str) -> ExitCode {
    eprintln!("mcpgate: {message}");
    ExitCode::from(FAILED)
}

/// The signals that we act on. They are listened for before anything says that the gateway runs.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// SIGTERM and SIGINT drain and leave; SIGHUP reads the configuration again.
async fn until_told_to_stop(running: Running, mut signals: Signals) -> ExitCode {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => running.read_again(),
        }
    }
    tracing::info!("stopping: letting what is in flight finish");
    // A second signal means: now.
    tokio::select! {
        stopped = running.stop() => match stopped {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the store could not be closed in order");
                ExitCode::from(FAILED)
            }
        },
        _ = signals.interrupt.recv() => ExitCode::SUCCESS,
    }
}

/// Streams take two descriptors each, and the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED_FILES, |maximum| maximum.min(WANTED_FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                ..limit
            },
        )
        .is_err()
    {
        tracing::warn!("the limit of open files could not be raised");
    }
}
