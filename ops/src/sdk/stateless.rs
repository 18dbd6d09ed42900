//! Filters and transforms.

use protocol::control::OpKind;

use super::{Body, IntoResult, Output, Program, Result, Tuple, Tuples};

/// Passes tuples on as they are, or drops them.
pub trait Filter {
    fn passes(&mut self, tuple: Tuple<'_>) -> Result<bool>;

    /// All tuples of a batch at once, for who can do better than one by one: sets the bytes of those that pass, which
    /// are 0 before, to 1.
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

/// Makes any number of tuples of each.
pub trait Transform {
    fn transform(&mut self, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result;

    /// All tuples of a batch at once, for who can do better than one by one. [`Output::emit`] takes the key of the tuple
    /// last looked at.
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

pub struct Filtering<F>(F);

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

pub struct Transforming<T>(T);

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
