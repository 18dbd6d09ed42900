//! Steps of a protocol that a test leaves out, to see that it notices.
//!
//! Each state machine lists its mutants with [`mutants!`](crate::mutants!) and asks `Mutant::Name.is_on()` at the place itself, so what
//! is mutated is what ships. In a program that is built as usual the answer is a constant `false`: nothing is left of it.
//!
//! - Simulations turn one on for their thread with `Mutant::Name.turn_on()`, until the guard is dropped.
//! - `tests/mutants.sh` builds whole programs with one on: `RUSTFLAGS='--cfg mutants' RAINSTORM_MUTANT=Name cargo build`. The name
//!   is compiled in, so processes on other machines need not be told.

use std::fmt::Debug;
use std::ops::Range;
use std::panic::AssertUnwindSafe;

/// Declares an enum of mutants, with `ALL`, `is_on()` and, in tests, `turn_on()`.
#[macro_export]
macro_rules! mutants {
    ($(#[$meta:meta])* $vis:vis enum $Mutant:ident { $($(#[$doc:meta])* $Name:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $Mutant { $($(#[$doc])* $Name,)+ }

        #[cfg(any(test, mutants))]
        ::std::thread_local! {
            static MUTANT_ON: ::std::cell::Cell<Option<$Mutant>> = const { ::std::cell::Cell::new($Mutant::built_in()) };
        }

        impl $Mutant {
            /// Is this step left out? Never in a program that is built as usual.
            #[cfg(not(any(test, mutants)))]
            #[inline(always)]
            $vis const fn is_on(self) -> bool {
                false
            }

            /// Is this step left out?
            #[cfg(any(test, mutants))]
            $vis fn is_on(self) -> bool {
                MUTANT_ON.get() == Some(self)
            }
        }

        #[cfg(mutants)]
        impl $Mutant {
            /// The one that this program was built with, should it be one of these.
            const fn built_in() -> Option<Self> {
                const fn same(a: &str, b: &str) -> bool {
                    let (a, b) = (a.as_bytes(), b.as_bytes());
                    let mut i = 0;
                    while i < a.len() && i < b.len() && a[i] == b[i] {
                        i += 1;
                    }
                    i == a.len() && i == b.len()
                }
                let Some(name) = ::std::option_env!("RAINSTORM_MUTANT") else { return None };
                $(if same(name, ::std::stringify!($Name)) {
                    return Some(Self::$Name);
                })+
                None
            }
        }

        #[cfg(all(test, not(mutants)))]
        impl $Mutant {
            const fn built_in() -> Option<Self> {
                None
            }
        }

        #[cfg(test)]
        impl $Mutant {
            $vis const ALL: &'static [Self] = &[$(Self::$Name),+];

            /// Leaves the step out in this thread, for as long as the guard lives.
            #[must_use]
            $vis fn turn_on(self) -> impl Drop {
                struct TurnedOn(Option<$Mutant>);
                impl Drop for TurnedOn {
                    fn drop(&mut self) {
                        MUTANT_ON.set(self.0);
                    }
                }
                TurnedOn(MUTANT_ON.replace(Some(self)))
            }
        }
    };
}

/// For simulations: turns each mutant on, and looks for the first seed whose run does not hold (it says so, or panics). Panics with
/// those that none of the seeds shows. What the runs themselves panic with is not printed.
pub fn all_are_caught<M: Copy + Debug, G>(
    all: &[M],
    turn_on: impl Fn(M) -> G,
    seeds: Range<u64>,
    holds: impl Fn(M, u64) -> bool,
) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught_at = |mutant: M| {
        let _left_out = turn_on(mutant);
        let holds = |seed| std::panic::catch_unwind(AssertUnwindSafe(|| holds(mutant, seed)));
        seeds.clone().find(|seed| !matches!(holds(*seed), Ok(true)))
    };
    let caught: Vec<_> = all.iter().map(|mutant| (*mutant, caught_at(*mutant))).collect();
    std::panic::set_hook(hook);
    for (mutant, seed) in &caught {
        println!("{mutant:?}: caught at seed {seed:?}");
    }
    let missed: Vec<_> = caught.iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[cfg(test)]
mod tests {
    crate::mutants! {
        /// For this test.
        enum Mutant {
            /// Nothing is added.
            Sum,
            Product,
        }
    }

    #[test]
    fn a_run_that_says_that_it_does_not_hold_or_panics_catches_one() {
        let holds = |mutant: Mutant, seed: u64| match mutant {
            Mutant::Sum => seed < 5 || !mutant.is_on(),
            Mutant::Product if seed == 7 => panic!("it is caught"),
            Mutant::Product => true,
        };
        super::all_are_caught(Mutant::ALL, Mutant::turn_on, 0..8, holds);
        let missed = std::panic::catch_unwind(|| {
            super::all_are_caught(Mutant::ALL, Mutant::turn_on, 0..7, holds);
        });
        assert!(missed.is_err(), "Product is shown by none of these");
    }

    #[test]
    fn one_is_on_in_its_thread_until_the_guard_goes() {
        assert!(Mutant::ALL.iter().all(|m| !m.is_on()));
        {
            let _sum = Mutant::Sum.turn_on();
            assert!(Mutant::Sum.is_on() && !Mutant::Product.is_on());
            let elsewhere = std::thread::scope(|s| s.spawn(|| Mutant::Sum.is_on()).join());
            assert!(!elsewhere.unwrap());
            let _product = Mutant::Product.turn_on();
            assert!(!Mutant::Sum.is_on() && Mutant::Product.is_on());
        }
        assert!(Mutant::ALL.iter().all(|m| !m.is_on()));
    }
}
