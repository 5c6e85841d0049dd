//! The steps of a random run: small numbers, so that a shrinking generator can make them too.

/// One access of one state. Every number is taken modulo what it chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which state.
    pub state: u8,
    /// What is done.
    pub action: u8,
    /// For which key.
    pub key: u8,
    /// In which namespace, or for which map key.
    pub namespace: u8,
    /// With which value.
    pub value: u8,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A chunk of accesses.
    Chunk(Vec<Access>),
    /// Processing time goes on by so many milliseconds.
    Wait(u8),
    /// A barrier arrives.
    Barrier,
    /// The running snapshot goes on for so many entries.
    Advance(u8),
    /// The running snapshot is taken.
    Take,
    /// The running snapshot is aborted.
    Abort,
    /// The job crashes and comes back with another parallelism.
    Crash(u8),
}

/// The same numbers on every machine. Source: SplitMix64 (Steele, Lea, Flood, 2014).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    }
}

/// `count` steps that depend on `seed` only.
pub fn seeded_steps(seed: u64, count: usize) -> Vec<Step> {
    let mut numbers = Numbers(seed.wrapping_mul(0x1234_5678_9abc_def1));
    (0..count).map(|_| seeded_step(&mut numbers)).collect()
}

/// So many accesses of all states.
pub(super) fn seeded_accesses(numbers: &mut Numbers, count: usize) -> Vec<Access> {
    let accesses = (0..count).map(|_| Access {
        state: numbers.next(),
        action: numbers.next(),
        key: numbers.next(),
        namespace: numbers.next(),
        value: numbers.next(),
    });
    accesses.collect()
}

fn seeded_step(numbers: &mut Numbers) -> Step {
    match numbers.next() % 16 {
        0..8 => {
            let length = numbers.next() % 48;
            Step::Chunk(seeded_accesses(numbers, usize::from(length)))
        }
        8 | 9 => Step::Wait(numbers.next() % 40),
        10 | 11 => Step::Barrier,
        12 => Step::Advance(numbers.next() % 16),
        13 => Step::Take,
        14 => match numbers.next() % 3 {
            0 => Step::Abort,
            _ => Step::Take,
        },
        _ => Step::Crash(numbers.next()),
    }
}
