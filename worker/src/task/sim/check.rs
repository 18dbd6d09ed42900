//! What the destination must hold at the end.

use super::*;

impl World {
    pub(super) fn check(&self) -> Result<(), String> {
        let lines = |text: &[u8]| -> Vec<String> {
            let mut lines: Vec<String> = text
                .split(|b| *b == b'\n')
                .map(|l| String::from_utf8_lossy(l).into_owned())
                .collect();
            lines.pop();
            lines.sort();
            lines
        };
        let same = |what: &str, got: Vec<String>, mut expected: Vec<String>| {
            expected.sort();
            match got == expected {
                true => Ok(()),
                false => Err(format!(
                    "{what}: got {} lines, expected {}",
                    got.len(),
                    expected.len()
                )),
            }
        };
        let got = lines(&self.dest);
        if self.flow == Flow::Random {
            let mut values: Vec<String> = got.iter().map(|l| l[2..].to_owned()).collect();
            values.sort();
            let all = self.lines.iter().flat_map(|(id, lines)| {
                (0..lines.len()).map(|n| format!("{}{}", id.index, (b'0' + n as u8) as char))
            });
            return same("values", values, all.collect());
        }
        let poison = |value: &u64| self.flow == Flow::Poison && *value == u64::from(POISON);
        let mut want = BTreeMap::new();
        for (key, value) in self.lines.values().flatten().filter(|(_, v)| !poison(v)) {
            *want.entry(*key).or_insert(0u64) += value % 3;
        }
        if self.flow == Flow::Chance {
            return self.check_chains(&got, &want);
        }
        let expected = want
            .iter()
            .flat_map(|(k, n)| (1..=*n).map(move |i| format!("{}\t{i}", *k as char)));
        same("counts", got, expected.collect())?;
        let poisoned = self.lines.values().flatten().filter(|(_, v)| poison(v)).count();
        match lines(&self.aside).len() {
            n if n == poisoned => Ok(()),
            n => Err(format!("{n} tuples set aside, expected {poisoned}")),
        }
    }

    /// For each key `0 a`, `a b`, `b c`, ...: as many links as tuples.
    fn check_chains(&self, got: &[String], want: &BTreeMap<u8, u64>) -> Result<(), String> {
        let mut links: BTreeMap<u8, BTreeMap<u64, u64>> = BTreeMap::new();
        for line in got {
            let mut numbers = line[2..].split(' ').map(|n| n.parse::<u64>().expect("a number"));
            let link = (numbers.next().expect("before"), numbers.next().expect("after"));
            let old = links
                .entry(line.as_bytes()[0])
                .or_default()
                .insert(link.0, link.1);
            if old.is_some() {
                return Err(format!("two links begin at {line}"));
            }
        }
        for (key, n) in want {
            let mut at = 0;
            for _ in 0..*n {
                at = *links
                    .get(key)
                    .and_then(|l| l.get(&at))
                    .ok_or(format!("the chain breaks at {at}"))?;
            }
        }
        let all: u64 = want.values().sum();
        match got.len() as u64 == all {
            true => Ok(()),
            false => Err(format!("{} links, expected {all}", got.len())),
        }
    }
}
