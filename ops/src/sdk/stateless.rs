//! Filters and transforms.

use protocol::control::OpKind;

use super::{Body, IntoResult, Output, Program, Result, Tuple, Tuples};

/// Passes tuples on as they are, or drops them. A closure `|tuple: Tuple<'_>|` that gives a `bool` is one.
pub trait Filter {
    /// Whether the tuple passes.
    ///
    /// # Errors
    /// One ends the program, and is reported with the tuple.
    fn passes(&mut self, tuple: Tuple<'_>) -> Result<bool>;

    /// All tuples of a batch at once, for who can do better than one by one: sets the bytes of those that pass, which
    /// are 0 before, to 1.
    ///
    /// # Errors
    /// As [`Filter::passes`]; the tuple is the one last looked at.
    fn batch(&mut self, tuples: &Tuples<'_>, passes: &mut [u8]) -> Result {
        for (tuple, pass) in tuples.iter().zip(passes) {
            *pass = u8::from(self.passes(tuple)?);
        }
        Ok(())
    }
}

impl<F, R> Filter for F
where
    F: FnMut(Tuple<'_>) -> R,
    R: IntoResult<bool>,
{
    #[inline]
    fn passes(&mut self, tuple: Tuple<'_>) -> Result<bool> {
        self(tuple).into_result()
    }
}

/// Makes any number of tuples of each. A closure `|tuple: Tuple<'_>, out: &mut Output<'_>|` is one.
pub trait Transform {
    /// Emits what becomes of the tuple.
    ///
    /// # Errors
    /// One ends the program, and is reported with the tuple.
    fn transform(&mut self, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result;

    /// All tuples of a batch at once, for who can do better than one by one. [`Output::emit`] takes the key of the tuple
    /// last looked at.
    ///
    /// # Errors
    /// As [`Transform::transform`]; the tuple is the one last looked at.
    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        tuples.iter().try_for_each(|tuple| self.transform(tuple, out))
    }
}

impl<F, R> Transform for F
where
    F: FnMut(Tuple<'_>, &mut Output<'_>) -> R,
    R: IntoResult<()>,
{
    #[inline]
    fn transform(&mut self, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result {
        self(tuple, out).into_result()
    }
}

/// The body of a program that filters; see [`filter`].
pub struct Filtering<F>(F);

/// A filter from a closure or from a type of yours.
///
/// ```
/// use ops::sdk::{self, Tuple};
///
/// let errors = sdk::filter(|tuple: Tuple<'_>| tuple.value.starts_with(b"ERROR"));
/// assert_eq!(sdk::on_lines(errors, "all is well\nERROR: no\n")?, "stdin:2\tERROR: no\n");
///
/// // A closure may fail: the job then names the tuple.
/// let strict = sdk::filter(|tuple: Tuple<'_>| std::str::from_utf8(tuple.value)?.parse::<i64>().map(|n| n > 9).map_err(sdk::Error::from));
/// assert!(sdk::on_lines(strict, "7\nseven\n").is_err());
/// # Ok::<(), sdk::Error>(())
/// ```
pub fn filter<F: Filter>(filter: F) -> Program<Filtering<F>> {
    Program::new(Filtering(filter))
}

impl<F: Filter> Body for Filtering<F> {
    fn kind(&self) -> OpKind {
        OpKind::Filter
    }

    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        self.0.batch(tuples, out.passes(tuples.len()))
    }
}

/// The body of a program that transforms; see [`transform`].
pub struct Transforming<T>(T);

/// A transform from a closure or from a type of yours.
///
/// ```
/// use ops::sdk::{self, Output, Tuple};
///
/// let words = sdk::transform(|tuple: Tuple<'_>, out: &mut Output<'_>| {
///     for word in tuple.value.split(|b| *b == b' ') {
///         out.emit_with_key(word, b"1");
///     }
/// });
/// assert_eq!(sdk::on_lines(words, "to be\n")?, "to\t1\nbe\t1\n");
/// # Ok::<(), sdk::Error>(())
/// ```
pub fn transform<T: Transform>(transform: T) -> Program<Transforming<T>> {
    Program::new(Transforming(transform))
}

impl<T: Transform> Body for Transforming<T> {
    fn kind(&self) -> OpKind {
        OpKind::Transform
    }

    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        self.0.batch(tuples, out)
    }
}
