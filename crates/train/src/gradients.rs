//! The gradients of a step at several ranks. In: those of this rank; out: their sums over all ranks. Invariant: whether
//! values go through the host or from device to device, each sum is that of f64 terms in the order of ranks, rounded to
//! f32 once, so both give the same bits.

use crate::group::{Group, Transport, sum_f32};
use candle_core::{DType, Device, Tensor, Var};
use eraser_model::Result;

/// Makes every gradient the sum over ranks. A parameter has one where any rank has one. With a `transport`, which all
/// ranks have or none, the values do not leave the devices.
pub(crate) fn sum_gradients(
    group: &dyn Group,
    transport: Option<&dyn Transport>,
    parameters: &[(String, Var)],
    gradients: Vec<Option<Tensor>>,
) -> Result<Vec<Option<Tensor>>> {
    match transport {
        _ if group.size() == 1 => Ok(gradients),
        Some(transport) => on_devices(group, transport, parameters, gradients),
        None => on_hosts(group, parameters, &gradients),
    }
}

/// One for each parameter that has a gradient here, 0 for others.
fn there(gradients: &[Option<Tensor>]) -> Vec<f32> {
    gradients.iter().map(|gradient| f32::from(u8::from(gradient.is_some()))).collect()
}

/// Through the memory of the hosts.
fn on_hosts(
    group: &dyn Group,
    parameters: &[(String, Var)],
    gradients: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    // Whether there is one, for each parameter, and then the values.
    let mut flat = there(gradients);
    for ((_, variable), gradient) in parameters.iter().zip(gradients) {
        match gradient {
            Some(gradient) => flat.extend(gradient.flatten_all()?.to_vec1::<f32>()?),
            None => flat.resize(flat.len() + variable.elem_count(), 0.0),
        }
    }
    sum_f32(group, &mut flat)?;
    let mut rest = flat.split_off(parameters.len());
    let mut sums = Vec::with_capacity(parameters.len());
    for ((_, variable), there) in parameters.iter().zip(flat) {
        let after = rest.split_off(variable.elem_count().min(rest.len()));
        let values = std::mem::replace(&mut rest, after);
        let sum = || Tensor::from_vec(values, variable.shape(), variable.device());
        sums.push((there > 0.0).then(sum).transpose()?);
    }
    Ok(sums)
}

/// From device to device; only which parameters have a gradient goes through the hosts.
fn on_devices(
    group: &dyn Group,
    transport: &dyn Transport,
    parameters: &[(String, Var)],
    gradients: Vec<Option<Tensor>>,
) -> Result<Vec<Option<Tensor>>> {
    let all = group.gather(&there(&gradients))?;
    let anywhere: Vec<bool> =
        (0..parameters.len()).map(|i| all.iter().skip(i).step_by(parameters.len()).any(|&there| there > 0.0)).collect();
    let mut flat = Vec::new();
    for (((_, variable), gradient), _) in parameters.iter().zip(gradients).zip(&anywhere).filter(|(_, there)| **there) {
        flat.push(match gradient {
            Some(gradient) => gradient.flatten_all()?,
            None => Tensor::zeros(variable.elem_count(), DType::F32, variable.device())?,
        });
    }
    let Some(device) = flat.first().map(|first| first.device().clone()) else {
        return Ok(vec![None; parameters.len()]);
    };
    let values = sum(transport, group.size(), flat, &device)?;
    let mut from = 0;
    let mut sums = Vec::with_capacity(parameters.len());
    for ((_, variable), there) in parameters.iter().zip(anywhere) {
        if !there {
            sums.push(None);
            continue;
        }
        let length = variable.elem_count();
        sums.push(Some(values.narrow(0, from, length)?.reshape(variable.shape())?));
        from += length;
    }
    Ok(sums)
}

/// The sums over ranks of `parts`, which are laid end to end, and a few zeros behind them. Each rank adds one piece and
/// gives it to the others, as in [`sum_f32`].
fn sum(transport: &dyn Transport, ranks: usize, mut parts: Vec<Tensor>, device: &Device) -> Result<Tensor> {
    let length: usize = parts.iter().map(Tensor::elem_count).sum();
    let piece = length.div_ceil(ranks);
    if piece * ranks > length {
        parts.push(Tensor::zeros(piece * ranks - length, DType::F32, device)?);
    }
    let values = Tensor::cat(&parts, 0)?;
    drop(parts);
    let pieces = transport.exchange(&values)?;
    drop(values);
    // A library's own sum would be in an order of its choice; this one begins with 0 as the host's does, which decides
    // the sign of zeros.
    let mut sum = Tensor::zeros(piece, DType::F64, device)?;
    for rank in 0..ranks {
        sum = (sum + pieces.narrow(0, rank * piece, piece)?.to_dtype(DType::F64)?)?;
    }
    drop(pieces);
    transport.gather(&sum.to_dtype(DType::F32)?)
}

#[cfg(test)]
#[path = "../tests/common/threads.rs"]
mod threads;

#[cfg(test)]
mod tests {
    use super::threads::{Through, ranks_through};
    use super::*;
    use crate::group::Counting;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    /// Parameters of odd sizes, and the gradients of a rank: the third has none at an odd rank, the fourth at any, the
    /// fifth only at the last one.
    fn of_rank(rank: usize, ranks: usize) -> (Vec<(String, Var)>, Vec<Option<Tensor>>) {
        let mut rng = ChaCha8Rng::seed_from_u64(rank as u64);
        let (mut parameters, mut gradients) = (Vec::new(), Vec::new());
        for (i, shape) in [(3, 7), (1, 1), (5, 4), (2, 3), (13, 1), (1, 6)].into_iter().enumerate() {
            let variable = Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            parameters.push((i.to_string(), variable));
            let there = match i {
                2 => rank.is_multiple_of(2),
                3 => false,
                4 => rank + 1 == ranks,
                _ => true,
            };
            // Sizes so far apart that another order of terms, or sums in f32, would give other bits.
            let mut value = |at: usize| match at % 5 {
                0 => -0.0,
                1 => f32::from_bits(rng.random_range(1..1 << 20)),
                _ => rng.random_range(-1f32..1.0) * 10f32.powi(rng.random_range(-12..12)),
            };
            let values: Vec<f32> = (0..shape.0 * shape.1).map(&mut value).collect();
            gradients.push(there.then(|| Tensor::from_vec(values, shape, &Device::Cpu).unwrap()));
        }
        (parameters, gradients)
    }

    /// The bits of all sums at each rank, and the bytes that it gave to others.
    fn summed(n: usize, through: Through) -> Vec<(Vec<Option<Vec<u32>>>, u64)> {
        ranks_through(n, through, |group| {
            let (parameters, gradients) = of_rank(group.rank(), n);
            let counting = Counting::new(group);
            let transport = counting.transport(&Device::Cpu).unwrap();
            assert_eq!(transport.is_some(), through == Through::Tensors);
            let sums = sum_gradients(&counting, transport.as_deref(), &parameters, gradients).unwrap();
            for ((_, variable), sum) in parameters.iter().zip(&sums) {
                assert!(sum.as_ref().is_none_or(|sum| sum.shape() == variable.shape()));
            }
            let bits = |sum: Tensor| {
                sum.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            let bytes = counting.traffic(1).map_or(0, |traffic| traffic.bytes);
            (sums.into_iter().map(|sum| sum.map(bits)).collect(), bytes)
        })
    }

    #[test]
    fn sums_from_device_to_device_have_the_bits_of_those_through_hosts() {
        for n in 1..=4 {
            let (hosts, devices) = (summed(n, Through::Hosts), summed(n, Through::Tensors));
            for ((host, _), (device, bytes)) in hosts.iter().zip(&devices) {
                assert_eq!(host, &hosts[0].0, "{n} ranks");
                assert_eq!(host, device, "{n} ranks");
                assert_eq!(host.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false, true, true]);
                // Six flags to each, and of 61 values one piece to each, and the sum of one.
                let piece = 61usize.div_ceil(n);
                assert_eq!(*bytes, ((6 + 2 * piece) * 4 * (n - 1)) as u64, "{n} ranks");
            }
        }
    }

    /// What is expected of both: the sums of f64 terms in the order of ranks.
    #[test]
    fn sums_are_of_f64_terms_in_the_order_of_ranks() {
        let n = 3;
        let all: Vec<_> = (0..n).map(|rank| of_rank(rank, n).1).collect();
        for (i, sum) in summed(n, Through::Tensors).swap_remove(0).0.into_iter().enumerate() {
            let terms: Vec<Vec<f32>> = all
                .iter()
                .filter_map(|gradients| gradients[i].as_ref())
                .map(|gradient| gradient.flatten_all().unwrap().to_vec1().unwrap())
                .collect();
            let Some(sum) = sum else {
                assert!(terms.is_empty());
                continue;
            };
            for (at, bits) in sum.into_iter().enumerate() {
                let expected = terms.iter().fold(0f64, |sum, term| sum + f64::from(term[at])) as f32;
                assert_eq!(bits, expected.to_bits());
            }
        }
    }

    #[test]
    fn where_no_rank_has_a_gradient_nothing_is_sent_but_that() {
        let found = ranks_through(2, Through::Tensors, |group| {
            let (parameters, gradients) = of_rank(0, 2);
            let transport = group.transport(&Device::Cpu).unwrap();
            let none = vec![None; gradients.len()];
            sum_gradients(group, transport.as_deref(), &parameters, none).unwrap().iter().flatten().count()
        });
        assert_eq!(found, [0, 0]);
    }
}
