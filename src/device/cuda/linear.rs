//! Launches of kernels/lora.cu around products, which in bf16 take the branches along.

use super::driver::{Factor, Grid, Matmul, Pointer};
use super::gemm::{Tail, gemm};
use super::kernel::LoraMap;
use super::scratch::{self, Low};
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::{Branch, Device, Dropout, narrow};
use crate::error::Result;

/// A row-major factor with contiguous rows.
pub(super) fn stored(pointer: Pointer, stride: usize) -> Factor {
    Factor { pointer, stride, transposed: false }
}

/// The transpose of what is stored.
pub(super) fn transposed(pointer: Pointer, stride: usize) -> Factor {
    Factor { pointer, stride, transposed: true }
}

/// The branches as kernels take them. `dbranches` are the gradients of `a, b` of each in turn, or none.
fn map_of<A: Act>(branches: &[Branch<'_, Cuda<A>>], dbranches: &[&mut Buf<f32>], dropout: Option<Dropout>) -> LoraMap {
    let (p, key) = dropout.map_or((0.0, 0), |dropout| (dropout.p, dropout.key));
    let kept = 1.0 / (1.0 - f64::from(p));
    // A word of the generator is dropped where (word >> 8) / 2^24 < p.
    let dropped = ((f64::from(p) * f64::from(1 << 24)).ceil() as u32) << 8;
    let mut map = LoraMap { key, dropped, kept: kept as f32, width: narrow(branches) as i32, ..LoraMap::default() };
    for (i, branch) in branches.iter().enumerate() {
        (map.a[i], map.b[i]) = (branch.a.pointer, branch.b.pointer);
        if let Some([da, db]) = dbranches.get(2 * i..2 * i + 2) {
            (map.da[i], map.db[i]) = (da.pointer, db.pointer);
        }
        [map.column[i], map.n[i], map.r[i], map.at[i]] =
            [branch.column, branch.n, branch.r, map.ranks as usize].map(|x| x as i32);
        (map.stream[i], map.scale[i]) = (branch.stream, branch.scale);
        map.ranks += map.r[i];
    }
    map
}

/// Columns and ranks.
fn lows<A: Act>(branches: &[Branch<'_, Cuda<A>>]) -> Vec<Low> {
    branches.iter().map(|branch| (branch.n, branch.r)).collect()
}

/// Blocks that add to a tile of rows.
fn tiles(t: usize, columns: usize, branches: usize) -> Grid {
    Grid::xyz(columns.div_ceil(kernel::LORA_TILE_COLUMNS as usize), t.div_ceil(kernel::LORA_TILE_TOKENS as usize), branches)
}

/// Blocks of which each thread has an element.
fn threads(elements: usize, rows: usize) -> Grid {
    Grid::xy(elements.div_ceil(kernel::LORA_THREADS as usize), rows)
}

pub(super) fn lora_linear_fwd<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    z: &mut Buf<A>,
    x: &Buf<A>,
    w: &Buf<A>,
    bias: Option<&Buf<A>>,
    branches: &[Branch<'_, Cuda<A>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::lora_linear_fwd::<Cuda<A>>(out, z, x, w, bias, branches, (t, n, k))?;
    let product = Matmul {
        m: t,
        n,
        k,
        a: stored(x.pointer, k),
        b: transposed(w.pointer, k),
        out: out.pointer,
        wide: false,
        bias: bias.map(|bias| bias.pointer),
        scale: 1.0,
        accumulate: false,
    };
    if z.len == 0 {
        return cuda.matmul(product);
    }
    let map = map_of(branches, &[], dropout);
    down(cuda, z, x, &map, (t, k))?;
    if !scratch::rides(size_of::<A>(), (t, n, k)) {
        cuda.matmul(product)?;
        let widest = branches.iter().map(|branch| branch.n).max().unwrap_or(0);
        return kernel::lora_up(cuda, tiles(t, widest, branches.len()), out, z, &map, t as i32, n as i32);
    }
    let width = narrow(branches);
    let mut b = cuda.empty::<A>(n * width)?;
    kernel::lora_pack_b(cuda, threads(n * width, 1), &mut b, &map, n as i32)?;
    gemm(cuda, &product, Some(Tail { z: z.pointer, z_stride: width, b: b.pointer, b_stride: width, r: width }))
}

fn down<A: Act>(cuda: &Cuda<A>, z: &mut Buf<A>, x: &Buf<A>, map: &LoraMap, (t, k): (usize, usize)) -> Result<()> {
    kernel::lora_down(cuda, Grid::x(t.div_ceil(kernel::LORA_ROWS as usize)), z, x, map, t as i32, k as i32)
}

pub(super) fn lora_narrow<A: Act>(
    cuda: &Cuda<A>,
    z: &mut Buf<A>,
    x: &Buf<A>,
    branches: &[Branch<'_, Cuda<A>>],
    dropout: Option<Dropout>,
    (t, k): (usize, usize),
) -> Result<()> {
    check::lora_narrow::<Cuda<A>>(z, x, branches, (t, k))?;
    if z.len == 0 { Ok(()) } else { down(cuda, z, x, &map_of(branches, &[], dropout), (t, k)) }
}

pub(super) fn lora_linear_bwd<A: Act>(
    cuda: &Cuda<A>,
    mut dx: Option<(&mut Buf<A>, bool)>,
    dbranches: &mut [&mut Buf<f32>],
    dout: &Buf<A>,
    z: &Buf<A>,
    x: &Buf<A>,
    w: &Buf<A>,
    branches: &[Branch<'_, Cuda<A>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    let dx_of = dx.as_ref().map(|(dx, _)| &**dx);
    check::lora_linear_bwd::<Cuda<A>>(dx_of, dbranches, dout, z, x, w, branches, (t, n, k))?;
    let product = dx.as_ref().map(|(dx, accumulate)| Matmul {
        m: t,
        n: k,
        k: n,
        a: stored(dout.pointer, n),
        b: stored(w.pointer, k),
        out: dx.pointer,
        wide: false,
        bias: None,
        scale: 1.0,
        accumulate: *accumulate,
    });
    let lows = lows(branches);
    let blocks = scratch::dout_blocks(&lows);
    if t * blocks == 0 || (product.is_none() && dbranches.is_empty()) {
        return product.map_or(Ok(()), |product| cuda.matmul(product));
    }
    let map = map_of(branches, dbranches, dropout);
    let [tokens, columns, inputs] = [t, n, k].map(|x| x as i32);
    let trained = !dbranches.is_empty();

    let width = narrow(branches);
    let mut dz = cuda.empty::<A>(t * width)?;
    {
        let (part, parts) = scratch::token_parts(t, blocks);
        let mut dz_parts = cuda.empty::<f32>(scratch::dz_parts(t, &lows))?;
        let mut db_parts = cuda.empty::<f32>(if trained { scratch::db_parts(t, &lows) } else { 0 })?;
        let grid = Grid::xy(blocks, parts);
        kernel::lora_dz_db(cuda, grid, &mut dz_parts, &mut db_parts, dout, z, &map, tokens, columns, part as i32)?;
        let of_db = lows.iter().map(|&(n, r)| n * r).filter(|_| trained);
        let grid = threads(of_db.fold(t * width, usize::max), if trained { 1 + branches.len() } else { 1 });
        kernel::lora_join(cuda, grid, &mut dz, &dz_parts, &db_parts, &map, tokens, parts as i32)?;
    }
    if trained {
        let (across, passes) = scratch::x_blocks(k, &lows);
        let (part, parts) = scratch::token_parts(t, across * passes);
        let mut da_parts = cuda.empty::<f32>(scratch::da_parts(t, k, &lows))?;
        kernel::lora_da(cuda, Grid::xyz(across, parts, passes), &mut da_parts, &dz, x, &map, tokens, inputs, part as i32)?;
        let longest = lows.iter().map(|&(_, r)| r * k).max().unwrap_or(0);
        kernel::lora_join_da(cuda, threads(longest, branches.len()), &da_parts, &map, inputs, parts as i32)?;
    }
    let (Some(product), Some((dx, _))) = (product, &mut dx) else { return Ok(()) };
    // A mask is of dz a alone: then the sum is no product.
    if map.dropped != 0 || !scratch::rides(size_of::<A>(), (t, n, k)) {
        cuda.matmul(product)?;
        return kernel::lora_dx(cuda, tiles(t, k, 1), *dx, &dz, &map, tokens, inputs);
    }
    let mut a = cuda.empty::<A>(width * k)?;
    kernel::lora_pack_a(cuda, threads(width * k, 1), &mut a, &map, inputs)?;
    gemm(cuda, &product, Some(Tail { z: dz.pointer, z_stride: width, b: a.pointer, b_stride: k, r: width }))
}

pub(super) fn linear_dweight<A: Act>(
    cuda: &Cuda<A>,
    dw: &mut Buf<f32>,
    dbias: Option<&mut Buf<f32>>,
    dout: &Buf<A>,
    x: &Buf<A>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::linear_dweight::<Cuda<A>>(dw, dbias.as_deref(), dout, x, (t, n, k))?;
    cuda.matmul(Matmul {
        m: n,
        n: k,
        k: t,
        a: transposed(dout.pointer, n),
        b: stored(x.pointer, k),
        out: dw.pointer,
        wide: true,
        bias: None,
        scale: 1.0,
        accumulate: true,
    })?;
    let Some(dbias) = dbias.filter(|_| t > 0) else { return Ok(()) };
    kernel::column_sum(cuda, Grid::x(n.div_ceil(kernel::LORA_SUM_COLUMNS as usize)), dbias, dout, t as i32, n as i32)
}
