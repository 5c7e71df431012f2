//! Where the log goes: standard error, as text or JSON, filtered as `log` or `RUST_LOG` says.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

#[derive(Debug, thiserror::Error)]
#[error("log: {filter:?} is no filter; give a level, or something like `info,quorated=debug`")]
pub struct BadFilter {
    pub filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// To be called once.
pub fn start(filter: Option<&str>, format: LogFormat) -> Result<(), BadFilter> {
    let filter = match filter {
        Some(filter) => EnvFilter::try_new(filter).map_err(|source| BadFilter { filter: filter.to_owned(), source })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
