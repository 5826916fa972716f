//! What was measured, by round, product and figure; the statistics over rounds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// One figure of one product in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    round: usize,
    product: String,
    figure: String,
    /// The value, or why there is none.
    #[serde(flatten)]
    outcome: Outcome,
}

/// See [`Sample`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// In the figure's unit.
    Value(f64),
    /// Why there is none.
    None(String),
}

/// All of them.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Figures {
    samples: Vec<Sample>,
}

/// Where the figures of one product in one round go.
pub(crate) struct Sink<'a> {
    figures: &'a mut Figures,
    round: usize,
    product: String,
}

impl Sink<'_> {
    /// Keeps a figure.
    pub(crate) fn value(&mut self, figure: &str, value: f64) {
        self.push(figure, Outcome::Value(value));
    }

    /// Keeps why there is none.
    pub(crate) fn none(&mut self, figure: &str, why: impl Into<String>) {
        self.push(figure, Outcome::None(why.into()));
    }

    fn push(&mut self, figure: &str, outcome: Outcome) {
        let (round, product, figure) = (self.round, self.product.clone(), figure.to_owned());
        self.figures.samples.push(Sample { round, product, figure, outcome });
    }
}

impl Figures {
    /// Where the figures of a product in a round go.
    pub(crate) fn of(&mut self, round: usize, product: &str) -> Sink<'_> {
        Sink { figures: self, round, product: product.to_owned() }
    }

    /// Every figure that anything was said about.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.samples.iter().map(|sample| sample.figure.as_str()).collect()
    }

    /// A product's values of a figure, by round.
    pub(crate) fn values(&self, product: &str, figure: &str) -> BTreeMap<usize, f64> {
        let of = self.samples.iter().filter(|sample| sample.product == product && sample.figure == figure);
        of.filter_map(|sample| match sample.outcome {
            Outcome::Value(value) => Some((sample.round, value)),
            Outcome::None(_) => None,
        })
        .collect()
    }

    /// Why a product has no value of a figure, as said last.
    pub(crate) fn why_none(&self, product: &str, figure: &str) -> Option<&str> {
        let mut of = self.samples.iter().rev().filter(|sample| sample.product == product && sample.figure == figure);
        of.find_map(|sample| match &sample.outcome {
            Outcome::None(why) => Some(why.as_str()),
            Outcome::Value(_) => None,
        })
    }

    /// Something made of two products' values of a figure in the same round.
    pub(crate) fn within_rounds(&self, figure: &str, one: &str, other: &str, of: fn(f64, f64) -> f64) -> Vec<f64> {
        let others = self.values(other, figure);
        let both = self.values(one, figure);
        both.into_iter().filter_map(|(round, value)| Some(of(value, *others.get(&round)?))).collect()
    }
}

/// The middle of some values, with the least and the most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of no values there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        Some(Self { median: at_share(&values, 0.5), least, most })
    }
}

/// The value below which a share of sorted values lies; the middle of an even number is the mean of two.
pub(crate) fn at_share(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand values")]
    let at = share * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the first and the last")]
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let check = |values: &[f64], expected: Option<[f64; 3]>| {
            let expected = expected.map(|[median, least, most]| Spread { median, least, most });
            assert_eq!(Spread::of(values.iter().copied()), expected);
        };
        check(&[], None);
        check(&[3.0], Some([3.0, 3.0, 3.0]));
        check(&[3.0, 1.0, 10.0], Some([3.0, 1.0, 10.0]));
        check(&[4.0, 2.0], Some([3.0, 2.0, 4.0]));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut figures = Figures::default();
        for (round, product, value) in [(0, "a", 1.0), (0, "b", 2.0), (1, "a", 9.0), (1, "b", 3.0), (2, "a", 5.0)] {
            figures.of(round, product).value("speed", value);
        }
        figures.of(2, "b").none("speed", "it fell over");
        assert_eq!(figures.within_rounds("speed", "a", "b", |a, b| a / b), [0.5, 3.0]);
        assert_eq!(figures.why_none("b", "speed"), Some("it fell over"));
        assert_eq!(figures.why_none("a", "speed"), None);
    }
}
