//! Does a figure stay where it is?

/// A figure is said to grow when the mean of its last third is so much larger than that of its first ...
const FACTOR: f64 = 1.2;

#[derive(Debug, Clone, PartialEq)]
pub struct Trend {
    pub name: String,
    pub first: f64,
    pub last: f64,
    /// By least squares: its growth per hour.
    pub per_hour: f64,
    pub grows: bool,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// `samples`: seconds and value. What comes within the first tenth, while everything warms up, does not count. `floor`: what the figure may
/// grow by in any case.
pub fn trend(name: &str, samples: &[(f64, f64)], floor: f64) -> Option<Trend> {
    let samples = &samples[samples.len() / 10..];
    if samples.len() < 3 {
        return None;
    }
    let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
    let third = values.len() / 3;
    let (first, last) = (mean(&values[..third]), mean(&values[values.len() - third..]));
    let times: Vec<f64> = samples.iter().map(|(at, _)| *at).collect();
    let (middle, level) = (mean(&times), mean(&values));
    let spread: f64 = times.iter().map(|t| (t - middle).powi(2)).sum();
    let slope: f64 = samples.iter().map(|(t, v)| (t - middle) * (v - level)).sum();
    Some(Trend {
        name: name.into(),
        first,
        last,
        per_hour: if spread > 0.0 {
            slope / spread * 3600.0
        } else {
            0.0
        },
        grows: last > first * FACTOR + floor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: impl Fn(f64) -> f64) -> Trend {
        let samples: Vec<(f64, f64)> = (0..30)
            .map(|n| f64::from(n) * 60.0)
            .map(|t| (t, value(t)))
            .collect();
        trend("x", &samples, 1.0).unwrap()
    }

    #[test]
    fn what_grows_is_told_from_what_goes_up_and_down() {
        assert!(!of(|_| 100.0).grows);
        assert!(!of(|t| 100.0 + 50.0 * (t / 100.0).sin()).grows);
        assert!(!of(|t| if t < 120.0 { t } else { 120.0 }).grows, "it warms up");
        let grows = of(|t| 100.0 + t / 10.0);
        assert!(grows.grows && (grows.per_hour - 360.0).abs() < 1.0, "{grows:?}");
        assert!(!of(|t| t / 10_000.0).grows, "less than the floor");
    }
}
