//! Steps of a protocol that a test leaves out, to see that it notices.
//!
//! Each state machine lists its mutants with [`mutants!`](crate::mutants!) and asks `Mutant::Name.is_on()` at the place itself, so what
//! is mutated is what ships. In a program that is built as usual the answer is a constant `false`: nothing is left of it.
//!
//! - Simulations turn one on for their thread with `Mutant::Name.turn_on()`, until the guard is dropped.
//! - `tests/mutants.sh` builds whole programs with one on: `RUSTFLAGS='--cfg mutants' RAINSTORM_MUTANT=Name cargo build`. The name
//!   is compiled in, so processes on other machines need not be told.

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
