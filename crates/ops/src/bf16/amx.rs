//! The bf16 kernel on the processor's tiles (AMX). In, out: as of `kernel.rs`, for many rows at a time. Invariant: a
//! value of [`Amx`] exists only on a processor that has the instructions, in a process that may use them.
//!
//! A tile is a register of 16 rows of 64 bytes. One instruction multiplies a tile of 16 rows of `x`, 32 numbers each,
//! with a tile of the weight, the 16 pairs of those numbers in 16 columns, and adds to a tile of 16 x 16 sums. Rows and
//! weight lie in memory tile after tile, since reading them takes about as long as multiplying. Eight tiles hold 32 x 32
//! sums, two tiles of `x` and two of the weight. At the edges the tiles of sums are made smaller, so that nothing beyond
//! the rows and columns is read or written.
//!
//! The instructions are written as assembly, since the toolchain does not offer them as functions yet.

use super::tile::{LANES, Line, Place, TileRows};
use super::x86::Avx512;
use std::arch::{asm, x86_64::__cpuid_count};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of `x` whose sums are in tiles together.
pub(super) const ROWS: usize = 2 * LANES;
/// Most steps of the inner dimension between two visits of a tile of sums: two strips so long stay in the first-level
/// cache, while rows of `x` pass by.
const DEPTH: usize = 20;

/// Shows that the processor has AMX with BF16 beside AVX-512, and that the system lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amx {
    /// What the other parts of a product are made with.
    pub(super) avx512: Avx512,
}

impl Amx {
    /// None where instructions or the permission are missing.
    pub(super) fn detect(avx512: Avx512) -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_instructions() && is_permitted()).then_some(Self { avx512 })
    }

    /// Writes or, with `add`, adds the products of some rows `x`, the first of which begins a block of 16, and a
    /// weight's strips.
    ///
    /// # Safety
    /// `place` is valid for writes of these rows, that no one else uses; with `add` they are initialised.
    ///
    /// # Panics
    /// When the rows are not in `x`, or rows and strips differ in length, or are empty, or there are strips for more
    /// columns.
    #[allow(unsafe_code)]
    pub(super) unsafe fn product(self, x: TileRows<'_>, rows: &Range<usize>, strips: &[Line], place: Place, add: bool) {
        let strip = x.stride * LANES;
        assert!(strip > 0 && rows.end <= x.rows, "no such rows");
        assert_eq!(strips.len(), place.columns.div_ceil(LANES) * strip, "strips of other sizes");
        let mut tiles = Tiles::new(self);
        let pieces = x.stride.div_ceil(DEPTH);
        let depth = x.stride.div_ceil(pieces);
        for start in (0..x.stride).step_by(depth) {
            let steps = depth.min(x.stride - start);
            for (i, pair) in strips.chunks(2 * strip).enumerate() {
                let column = i * ROWS;
                let columns = [
                    LANES.min(place.columns - column),
                    (place.columns - column).min(ROWS) - pair.len() / strip / 2 * LANES,
                ];
                // Where there is one strip, or one block of rows, it is multiplied twice.
                let pair = [0, pair.len() - strip].map(|at| pair[at + start * LANES..][..steps * LANES].as_ptr());
                for row in rows.clone().step_by(ROWS) {
                    let second = row + if rows.end - row > LANES { LANES } else { 0 };
                    tiles.shape([LANES.min(rows.end - row), (rows.end - second).min(LANES)], columns);
                    let sums = |row: usize| place.at.wrapping_add((row - rows.start) * place.stride + column);
                    let block = Block {
                        x: [row, second].map(|row| x.block(row)[start * LANES..][..steps * LANES].as_ptr()),
                        strips: pair,
                        steps,
                        sums: [sums(row), sums(second)],
                        stride: place.stride * size_of::<f32>(),
                        add: add || start > 0,
                    };
                    // SAFETY: the lengths of rows and strips are as seen above; the sums are in the caller's place, and
                    // the shape of the tiles ends where it does.
                    unsafe {
                        if block.strips[0] == block.strips[1] {
                            block.run::<0>(&tiles);
                        } else {
                            block.run::<64>(&tiles);
                        }
                    }
                }
            }
        }
    }
}

fn has_instructions() -> bool {
    // Leaf 7 of the processor's description: bit 22 is AMX-BF16, bit 24 AMX-TILE.
    let highest = __cpuid_count(0, 0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24
}

/// Asks the system for the use of the tiles, which it saves when it changes from thread to thread.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` of `arch_prctl`.
    const REQUEST: libc::c_long = 0x1023;
    /// Number of the tiles' data among the states that the processor saves.
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: this call of the system reads no memory; with an unknown request or state it fails.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) };
    answer == 0
}

/// Other systems have ways of their own, which were not tried.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What the processor reads as the shape of its tiles.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The use of this thread's tiles; they are given back when it ends. Nothing else of this thread uses tiles meanwhile.
struct Tiles {
    shape: Option<([usize; 2], [usize; 2])>,
    /// Of one thread.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    fn new(_: Amx) -> Self {
        Self { shape: None, thread: PhantomData }
    }

    /// Makes tiles 0 to 3 as large as blocks of sums of two times two heights and widths, 1 to 16 each; 4 and 5 as high
    /// for `x`, 6 and 7 as wide for the panel.
    #[inline]
    fn shape(&mut self, rows: [usize; 2], columns: [usize; 2]) {
        if self.shape == Some((rows, columns)) {
            return;
        }
        let mut shape = Shape { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = |i: usize, rows: usize, columns: usize| {
            shape.rows[i] = rows as u8;
            shape.row_bytes[i] = 4 * columns as u16;
        };
        for (r, rows) in rows.into_iter().enumerate() {
            tile(4 + r, rows, LANES);
            for (c, columns) in columns.into_iter().enumerate() {
                tile(6 + c, LANES, columns);
                tile(2 * r + c, rows, columns);
            }
        }
        // SAFETY: a value of this type is made only where the instructions are, and the shape is a valid one.
        #[allow(unsafe_code)]
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shape, options(nostack, readonly, preserves_flags));
        }
        self.shape = Some((rows, columns));
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.shape.is_some() {
            // SAFETY: as in `shape`.
            #[allow(unsafe_code)]
            unsafe {
                asm!("tilerelease", options(nostack, nomem, preserves_flags));
            }
        }
    }
}

/// Two times two tiles of sums, and what they are made of.
struct Block {
    /// Two blocks of rows; twice the same where there is one.
    x: [*const Line; 2],
    /// Two strips; twice the same where there is one.
    strips: [*const Line; 2],
    steps: usize,
    sums: [*mut f32; 2],
    /// Of the sums, in bytes.
    stride: usize,
    add: bool,
}

impl Block {
    /// `SECOND` is where the second tile of columns begins, in bytes after the first; 0 where there is one strip. Rows
    /// or a strip that were given as both blocks are multiplied and written two times, with the same result.
    ///
    /// # Safety
    /// `steps` tiles, at least one, lie in what `x` and `strips` point to, and tiles of the present shape where the sums
    /// are.
    #[allow(unsafe_code)]
    #[inline]
    unsafe fn run<const SECOND: usize>(self, _: &Tiles) {
        // SAFETY: the caller's. The tiles hold nothing before and are not read after this piece of assembly.
        unsafe {
            asm!(
                "test {add:e}, {add:e}",
                "jnz 2f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{c0} + {cs}]",
                "tileloadd tmm1, [{c0} + {cs} + {second}]",
                "tileloadd tmm2, [{c1} + {cs}]",
                "tileloadd tmm3, [{c1} + {cs} + {second}]",
                "3:",
                "tileloadd tmm6, [{p0} + {line}]",
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm7, [{p1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, {tile}",
                "add {x1}, {tile}",
                "add {p0}, {tile}",
                "add {p1}, {tile}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{c0} + {cs}], tmm0",
                "tilestored [{c0} + {cs} + {second}], tmm1",
                "tilestored [{c1} + {cs}], tmm2",
                "tilestored [{c1} + {cs} + {second}], tmm3",
                add = in(reg) u32::from(self.add),
                c0 = in(reg) self.sums[0],
                c1 = in(reg) self.sums[1],
                cs = in(reg) self.stride,
                x0 = inout(reg) self.x[0] => _,
                x1 = inout(reg) self.x[1] => _,
                p0 = inout(reg) self.strips[0] => _,
                p1 = inout(reg) self.strips[1] => _,
                line = in(reg) size_of::<Line>(),
                tile = const LANES * size_of::<Line>(),
                steps = inout(reg) self.steps => _,
                second = const SECOND,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
