//! What many measurements come to.

use std::fmt;

/// Mean and quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub median: f64,
    /// What 99 of 100 do not exceed.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let Some(max) = values.last().copied() else { return Self::default() };
        let count = values.len();
        let at = |part: f64| values[((count as f64 * part).ceil() as usize).clamp(1, count) - 1];
        Self { count, mean: values.iter().sum::<f64>() / count as f64, median: at(0.5), p99: at(0.99), max }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3})", self.mean, self.p99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let spread = Spread::of((1..=100).rev().map(f64::from));
        assert_eq!((spread.mean, spread.median, spread.p99, spread.max), (50.5, 50.0, 99.0, 100.0));
        assert_eq!(Spread::of([]).count, 0);
    }
}
