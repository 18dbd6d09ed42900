//! Which file a call means.

use common::ids::Creation;

/// A file by its name, or just one of those that have had the name.
///
/// By name alone a call means whichever file has the name when it begins. Who reads a file in several calls, or writes down
/// what was read, names its creation: another file under the name is then [`super::Error::Replaced`].
///
/// ```
/// use common::ids::Creation;
/// use hydfs::client::FileRef;
///
/// let whichever: FileRef = "logs/a".into();
/// let that_one: FileRef = ("logs/a", Creation(7)).into();
/// assert_eq!((whichever.of, that_one.of), (None, Some(Creation(7))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which file of that name; `None`: the one that has it now.
    pub of: Option<Creation>,
}

impl<'a> From<&'a str> for FileRef<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, of: None }
    }
}

impl<'a> From<&'a String> for FileRef<'a> {
    fn from(name: &'a String) -> Self {
        name.as_str().into()
    }
}

impl<'a> From<(&'a str, Creation)> for FileRef<'a> {
    fn from((name, creation): (&'a str, Creation)) -> Self {
        Self {
            name,
            of: Some(creation),
        }
    }
}

impl<'a> From<(&'a str, Option<Creation>)> for FileRef<'a> {
    fn from((name, of): (&'a str, Option<Creation>)) -> Self {
        Self { name, of }
    }
}
