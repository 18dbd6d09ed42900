//! Aggregates: state per key, kept and saved here.

use std::marker::PhantomData;

use protocol::control::OpKind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Body, IntoResult, Output, Program, Result, Tuple, Tuples};
use crate::aggregate::table::{self, Table, take};

/// Keeps a state for each key.
///
/// ```
/// use ops::sdk::{self, Aggregate, Output, Result, Tuple};
///
/// /// The longest line of each key, at the end.
/// struct Longest;
///
/// impl Aggregate for Longest {
///     type State = Vec<u8>;
///
///     fn update(&mut self, longest: &mut Vec<u8>, tuple: Tuple<'_>, _: &mut Output<'_>) -> Result {
///         if tuple.value.len() > longest.len() {
///             *longest = tuple.value.to_vec();
///         }
///         Ok(())
///     }
///
///     fn at_end(&mut self, _key: &[u8], longest: &Vec<u8>, out: &mut Output<'_>) -> Result {
///         out.emit(longest);
///         Ok(())
///     }
/// }
///
/// let said = sdk::on_lines(sdk::aggregate_with(Longest), "a line\n")?;
/// assert_eq!(said, "stdin:1\ta line\n");
/// # Ok::<(), sdk::Error>(())
/// ```
pub trait Aggregate {
    /// A new key's is the default. Saved as MessagePack.
    type State: Default + Serialize + DeserializeOwned + Send;

    /// Takes in a tuple of the state's key.
    ///
    /// # Errors
    /// One ends the program, and is reported with the tuple.
    fn update(&mut self, state: &mut Self::State, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result;

    /// The input has ended: once for each key, in the order of the keys' bytes.
    ///
    /// # Errors
    /// One ends the program, and is reported.
    fn at_end(&mut self, _key: &[u8], _state: &Self::State, _out: &mut Output<'_>) -> Result {
        Ok(())
    }
}

/// An aggregate from a closure: `|state: &mut S, tuple: Tuple<'_>, out: &mut Output<'_>|`.
///
/// ```
/// use ops::sdk::{self, Output, Tuple};
///
/// let volume = sdk::aggregate(|total: &mut usize, tuple: Tuple<'_>, out: &mut Output<'_>| {
///     *total += tuple.value.len();
///     out.emit(total.to_string().as_bytes());
/// });
/// assert_eq!(sdk::on_lines(volume, "three\n")?, "stdin:1\t5\n");
/// # Ok::<(), sdk::Error>(())
/// ```
pub fn aggregate<S, F, R>(update: F) -> Program<Aggregating<Closure<S, F>>>
where
    S: Default + Serialize + DeserializeOwned + Send,
    F: FnMut(&mut S, Tuple<'_>, &mut Output<'_>) -> R,
    R: IntoResult<()>,
{
    aggregate_with(Closure(update, PhantomData))
}

/// An aggregate from a type of yours.
pub fn aggregate_with<A: Aggregate>(aggregate: A) -> Program<Aggregating<A>> {
    Program::new(Aggregating {
        aggregate,
        table: Table::default(),
    })
}

/// The [`Aggregate`] that a closure is; see [`aggregate()`].
pub struct Closure<S, F>(F, PhantomData<S>);

impl<S, F, R> Aggregate for Closure<S, F>
where
    S: Default + Serialize + DeserializeOwned + Send,
    F: FnMut(&mut S, Tuple<'_>, &mut Output<'_>) -> R,
    R: IntoResult<()>,
{
    type State = S;

    #[inline]
    fn update(&mut self, state: &mut S, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result {
        self.0(state, tuple, out).into_result()
    }
}

/// A state in the table: its length (4 bytes, little-endian) and its MessagePack in a snapshot.
#[derive(Default)]
struct Kept<S>(S);

impl<S: Default + Serialize + DeserializeOwned + Send> table::State for Kept<S> {
    const TAG: u8 = b'u';
    type Unsaveable = rmp_serde::encode::Error;

    fn save(&self, out: &mut Vec<u8>) -> std::result::Result<(), Self::Unsaveable> {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        rmp_serde::encode::write(out, &self.0)?;
        let length = (out.len() - begin - 4) as u32;
        out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    fn load(input: &mut &[u8]) -> Option<Self> {
        let length = u32::from_le_bytes(take(input)?) as usize;
        let (bytes, rest) = input.split_at_checked(length)?;
        *input = rest;
        rmp_serde::from_slice(bytes).ok().map(Self)
    }
}

/// The body of a program that keeps state; see [`aggregate()`] and [`aggregate_with`].
pub struct Aggregating<A: Aggregate> {
    aggregate: A,
    table: Table<Kept<A::State>>,
}

impl<A: Aggregate> Body for Aggregating<A> {
    fn kind(&self) -> OpKind {
        OpKind::Aggregate
    }

    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        let Self { aggregate, table } = self;
        tuples
            .iter()
            .try_for_each(|tuple| aggregate.update(&mut table.touch(tuple.key).state.0, tuple, out))
    }

    fn finish(&mut self, out: &mut Output<'_>) -> Result {
        let Self { aggregate, table } = self;
        for (key, state) in table.sorted() {
            out.at_end(key);
            aggregate.at_end(key, &state.0, out)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, rewrite: usize, out: &mut Vec<u8>) -> Result<bool> {
        let done = self.table.snapshot(rewrite, out);
        done.map_err(|e| format!("a key's state cannot be saved: {e}").into())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result {
        let done = self.table.restore(snapshot);
        done.map_err(|e| format!("the snapshot cannot be restored: {e}").into())
    }
}
