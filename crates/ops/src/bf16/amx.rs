//! The bf16 kernel on the processor's tiles (AMX). In, out: as of `kernel.rs`, for many rows at a time. Invariant: a
//! value of [`Amx`] exists only on a processor that has the instructions, in a process that may use them.
//!
//! A tile is a register of 16 rows of 64 bytes. One instruction multiplies a tile of 16 rows of `x`, 32 numbers each,
//! with a tile of the panel, 16 rows of 16 pairs, and adds to a tile of 16 x 16 sums. The panel is laid out so already.
//! Eight tiles hold 32 x 32 sums, two tiles of `x` and two of the panel. At the edges the tiles are made smaller, so
//! that nothing beyond the rows and columns is read or written.
//!
//! The instructions are written as assembly, since the toolchain does not offer them as functions yet.

use super::Rounded;
use super::tile::{LANES, Place};
use super::x86::Avx512;
use std::arch::{asm, x86_64::__cpuid_count};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// Pairs of the inner dimension that one instruction multiplies.
pub(super) const STEP: usize = 16;
/// Rows of `x` whose sums are in tiles together.
pub(super) const ROWS: usize = 32;

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

    /// Writes or, with `add`, adds the products of some rows `x`, from pair `start` of the inner dimension on, and a
    /// panel.
    ///
    /// # Safety
    /// `place` is valid for writes of these rows, that no one else uses; with `add` they are initialised.
    ///
    /// # Panics
    /// When the rows are not in `x`, or the panel is deeper than `x`, or not of whole steps, or of fewer columns.
    #[allow(unsafe_code)]
    pub(super) unsafe fn product(
        self,
        (x, rows): (&Rounded, &Range<usize>),
        start: usize,
        (panel, vectors): (&[u32], usize),
        place: Place,
        add: bool,
    ) {
        let depth = panel.len() / (vectors * LANES);
        assert!(depth.is_multiple_of(STEP) && depth * vectors * LANES == panel.len(), "panel of parts of steps");
        assert!(rows.end <= x.rows && start + depth <= x.stride, "panel of another depth");
        assert!(place.columns <= vectors * LANES && place.columns > (vectors - 1) * LANES, "panel of other columns");
        if depth == 0 {
            // There is nothing to add; what is written are zeros.
            for row in 0..if add { 0 } else { rows.len() } {
                // SAFETY: the caller's: these are the columns of a row.
                unsafe { place.at.add(row * place.stride).write_bytes(0, place.columns) };
            }
            return;
        }
        let mut tiles = Tiles::new(self);
        for row in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - row);
            let low = if count > LANES { LANES } else { 0 };
            for vector in (0..vectors).step_by(2) {
                let columns = 2.min(vectors - vector);
                let of = |v: usize| LANES.min(place.columns - (vector + v) * LANES);
                tiles.shape([count.min(LANES), count - low], [of(0), of(columns - 1)]);
                let block = Block {
                    x: [row, row + low].map(|row| x.row(row)[start..].as_ptr()),
                    x_stride: x.stride * size_of::<u32>(),
                    panel: panel[vector * LANES..].as_ptr(),
                    panel_stride: vectors * LANES * size_of::<u32>(),
                    steps: depth / STEP,
                    sums: [row, row + low]
                        .map(|row| place.at.wrapping_add((row - rows.start) * place.stride + vector * LANES)),
                    sums_stride: place.stride * size_of::<f32>(),
                    add,
                };
                // SAFETY: rows and depth are in `x` and the panel, as seen above; the sums are in the caller's place,
                // and the shape of the tiles ends where it does.
                unsafe {
                    match columns {
                        1 => block.run::<0>(&tiles),
                        _ => block.run::<{ LANES * 4 }>(&tiles),
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
            tile(4 + r, rows, STEP);
            for (c, columns) in columns.into_iter().enumerate() {
                tile(6 + c, STEP, columns);
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

/// Two times two tiles of sums. Strides are in bytes.
struct Block {
    /// Two blocks of rows; twice the same where there is one.
    x: [*const u32; 2],
    x_stride: usize,
    panel: *const u32,
    panel_stride: usize,
    steps: usize,
    sums: [*mut f32; 2],
    sums_stride: usize,
    add: bool,
}

impl Block {
    /// `SECOND` is where the second tile of columns begins, in bytes after the first; 0 where there is one only: then
    /// its sums are made and written twice, as are those of rows that are there twice.
    ///
    /// # Safety
    /// Tiles of the present shape lie in what the pointers point to: `steps` of them in `x` and the panel, at least one.
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
                "tileloadd tmm4, [{x0} + {xs}]",
                "tileloadd tmm6, [{p} + {ps}]",
                "tileloadd tmm7, [{p} + {ps} + {second}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x1} + {xs}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 64",
                "add {x1}, 64",
                "add {p}, {step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{c0} + {cs}], tmm0",
                "tilestored [{c0} + {cs} + {second}], tmm1",
                "tilestored [{c1} + {cs}], tmm2",
                "tilestored [{c1} + {cs} + {second}], tmm3",
                add = in(reg) u32::from(self.add),
                c0 = in(reg) self.sums[0],
                c1 = in(reg) self.sums[1],
                cs = in(reg) self.sums_stride,
                x0 = inout(reg) self.x[0] => _,
                x1 = inout(reg) self.x[1] => _,
                xs = in(reg) self.x_stride,
                p = inout(reg) self.panel => _,
                ps = in(reg) self.panel_stride,
                step = in(reg) STEP * self.panel_stride,
                steps = inout(reg) self.steps => _,
                second = const SECOND,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
