//! The batch protocol: `wire.rs` has the messages, `feed.rs` and `call.rs` the questions made of them.

mod call;
mod feed;
pub mod wire;

pub use call::Call;
pub use feed::{Feed, Frames};

use crate::operator::quoted;

/// The answer at the front of what has been read, and its length; `None`: it is not all there yet.
fn answer(input: &[u8]) -> Result<Option<(wire::Answer<'_>, usize)>, String> {
    let parsed = wire::frame(input).and_then(|frame| {
        let Some((message, length)) = frame else {
            return Ok(None);
        };
        Ok(Some((wire::Answer::read(message)?, length)))
    });
    parsed.map_err(|e| {
        let begin = quoted(&input[..input.len().min(32)]);
        format!(
            "the operator printed `{begin}`, which is no message of the batch protocol: {e}; \
             let it print everything else on standard error"
        )
    })
}

fn unexpected(answer: &wire::Answer<'_>, to: &str) -> String {
    let name = match answer {
        wire::Answer::Outputs { .. } => "outputs",
        wire::Answer::Passed(_) => "which tuples pass",
        wire::Answer::Snapshot { .. } => "a snapshot",
        wire::Answer::Restored => "that it has restored its state",
        wire::Answer::Error { .. } => "an error",
    };
    format!("the operator does not keep to the batch protocol: to {to} it answered {name}")
}
