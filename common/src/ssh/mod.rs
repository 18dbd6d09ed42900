//! What every program needs that uses SSH: where our own words begin on a session ([`Marker`]), and paths that `ssh` takes for what
//! they are ([`Folder`]).

mod folder;
mod marker;

pub use folder::{Folder, quoted};
pub use marker::{Marker, Silent};
