//! Loads whose results can be checked: records that say in their bytes whose they are and which, and reads of many small files.

mod appends;
mod reads;

use clap::Subcommand;

use crate::client::{Client, Error};

#[derive(Debug, Clone, Subcommand)]
pub enum Load {
    /// Appends records to one file, from several clients at once
    ///
    /// A record is a line: the client's name, the record's number (12 digits, from 0), a filling that follows from both.
    Append(appends::Appends),
    /// Makes many small files, unless they are there, and gets them at random
    Read(reads::Reads),
}

/// Carries it out; returns a JSON object. `client` makes a client with connections of its own.
pub async fn run(client: impl Fn() -> Client, load: Load) -> Result<serde_json::Value, Error> {
    match load {
        Load::Append(appends) => appends::run(client, appends).await,
        Load::Read(reads) => reads::run(client(), reads).await,
    }
}

/// The value below which `share` of them lie; sorts them.
fn quantile(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0)
}
