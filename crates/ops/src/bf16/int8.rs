//! Rows of numbers rounded to 8-bit integers, for products with quantised blocks of so few tokens that reading the weight
//! takes most of the time. In: rows of f32 numbers; out: groups of 64 integers with their scales. Invariant: what a row
//! lacks to whole groups is zero.

/// Numbers that are unpacked at a time.
pub(super) const GROUP: usize = 64;
/// Numbers of a row that share a scale when they are rounded to 8 bits.
const SHARED: usize = 32;
/// Largest 8-bit integer that a number is rounded to.
const LARGEST: f32 = 127.0;
/// Rows that are multiplied at a time: what is unpacked is used so many times.
pub(super) const TILE: usize = 4;

/// 64 numbers rounded to 8-bit integers, each 32 of them with a scale of their own: the largest becomes 127.
#[derive(Clone, Debug)]
pub(super) struct Int8Group {
    pub(super) integers: [i8; GROUP],
    /// The scale of every four of them: a vector of sums of fours is multiplied by a vector of scales.
    pub(super) scales: [f32; GROUP / 4],
    /// The sum of every sixteen, times their scale.
    pub(super) sums: [f32; GROUP / 16],
}

impl Int8Group {
    const ZERO: Self = Self { integers: [0; GROUP], scales: [0.0; GROUP / 4], sums: [0.0; GROUP / 16] };

    /// Rounds up to 64 numbers, to nearest; what they lack is zero.
    fn new(numbers: &[f32]) -> Self {
        let mut group = Self::ZERO;
        for (half, numbers) in numbers.chunks(SHARED).enumerate() {
            let integers = &mut group.integers[half * SHARED..][..SHARED];
            let scale = numbers.iter().fold(0f32, |most, x| most.max(x.abs())) / LARGEST;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            for (integer, x) in integers.iter_mut().zip(numbers) {
                *integer = (x * inverse).round_ties_even() as i8;
            }
            group.scales[half * SHARED / 4..][..SHARED / 4].fill(scale);
            for (sum, sixteen) in group.sums[half * SHARED / 16..].iter_mut().zip(integers.chunks(16)) {
                *sum = scale * sixteen.iter().map(|&x| i32::from(x)).sum::<i32>() as f32;
            }
        }
        group
    }
}

/// Rows of numbers rounded to 8-bit integers.
#[derive(Debug)]
pub(crate) struct Int8Rows {
    groups: Vec<Int8Group>,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Int8Rows {
    /// Rounds `rows` rows of `width` numbers.
    pub(crate) fn new(x: &[f32], rows: usize, width: usize) -> Self {
        let groups = x.chunks_exact(width.max(1)).take(rows).flat_map(|row| row.chunks(GROUP).map(Int8Group::new));
        Self { groups: groups.collect(), rows, width }
    }

    /// The groups of a row.
    pub(super) fn row(&self, row: usize) -> &[Int8Group] {
        let groups = self.width.div_ceil(GROUP);
        &self.groups[row * groups..][..groups]
    }

    /// Number `at` of row `row`, as rounded.
    pub(super) fn value(&self, row: usize, at: usize) -> f32 {
        let group = &self.row(row)[at / GROUP];
        group.scales[at % GROUP / 4] * f32::from(group.integers[at % GROUP])
    }
}
