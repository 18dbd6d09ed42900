//! Random jobs under random faults, on the real programs. A seed fixes the job, its data and its faults with their times
//! ([`scenario`]); [`run`] carries one out on a cluster that stays up, and judges it by an oracle that is not our code
//! ([`judge`]). What the operating system makes of the same choices differs from run to run: a seed that failed is worth
//! running a few times.

pub mod evidence;
pub mod judge;
pub mod kinds;
pub mod random;
pub mod recovery;
pub mod report;
pub mod run;
pub mod scenario;
pub mod strike;
