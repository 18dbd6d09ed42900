//! How the group comes to one configuration. Every datagram bears the sender's stamp (version and digest); a fresh
//! configuration rides on the next datagrams as news does; whoever shows an older stamp, or another one of the same
//! version, is sent ours. The greater configuration wins at every node that has seen both, so all end with the same.

use common::ids::NodeName;

use super::Group;
use crate::state::settings::{self, Configuration, MAX_VERSION, Stamp};
use crate::state::{Effect, Mutant, Refusal};
use crate::wire::Body;

impl Group {
    /// A change made at this node.
    pub(in crate::state) fn change(&mut self, changes: &[(String, String)]) -> Result<(), settings::Error> {
        let settings = self.agreed.settings.with(changes)?;
        if settings != self.agreed.settings {
            self.adopt(Configuration {
                version: (self.agreed.version + 1).min(MAX_VERSION),
                by: self.config.me.clone(),
                settings,
            });
        }
        Ok(())
    }

    pub(in crate::state) fn hear_configuration(&mut self, from: &NodeName, heard: Configuration) {
        if heard.version > MAX_VERSION || heard.settings.check().is_err() {
            return self.refuse(from.clone(), Refusal::Configuration);
        }
        // Version 0 is a cluster file's, and each node has its own.
        if heard.version == 0 {
            return;
        }
        let wins = match Mutant::NoTieBreak.is_on() {
            true => heard.version > self.agreed.version,
            false => heard > self.agreed,
        };
        if wins {
            self.adopt(heard);
        }
    }

    fn adopt(&mut self, new: Configuration) {
        self.spread_left = 3 * (usize::BITS - (self.config.others.len() + 1).leading_zeros()).max(1);
        self.configuration_is_news = true;
        if Mutant::NoAgreement.is_on() {
            self.spread_left = 0;
        }
        let before = std::mem::replace(&mut self.agreed, new.clone());
        self.effects.push(Effect::Configured {
            configuration: new,
            before,
        });
    }

    /// The sender of a datagram bears another stamp than ours: one of us has missed something.
    pub(in crate::state) fn compare_stamps(&mut self, from: &NodeName, theirs: Option<Stamp>) {
        let ours = self.stamp();
        if ours == theirs || Mutant::NoAgreement.is_on() {
            return;
        }
        let version = |s: Option<Stamp>| s.map_or(0, |s| s.version);
        // If theirs is newer, the stamp on our datagram asks for it.
        let tell_ours = version(ours) >= version(theirs);
        self.compose(from, Body::Tell, Default::default(), tell_ours);
    }

    /// `None` for the cluster file's.
    pub(in crate::state) fn stamp(&self) -> Option<Stamp> {
        (self.agreed.version > 0).then(|| self.agreed.stamp())
    }

    pub(in crate::state) fn agreed(&self) -> &Configuration {
        &self.agreed
    }
}
