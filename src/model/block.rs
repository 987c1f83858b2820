//! One decoder block: RMSNorm -> q, k, v -> RoPE -> causal grouped-query attention -> o -> residual; RMSNorm ->
//! SiLU(gate) * up -> down -> residual. One forward serves training, prefill and decoding; `Saved` structs are filled by
//! forward and consumed by backward of this file.

use std::sync::Arc;

use super::lora::{self, LayerAdapter, Target};
use super::{Config, Packed};
use crate::device::{Bounds, Cursor, Device, Dropout, narrow};
use crate::error::Result;
use crate::recipe::Recompute;
use crate::weights::{Grads, Param, Part};

pub(super) struct Block<D: Device> {
    /// `[c]`.
    attention_norm: Param<D>,
    /// `[(q + 2 kv) d, c]`.
    qkv: Param<D>,
    /// `[(q + 2 kv) d]`, for Qwen2.
    qkv_bias: Option<Param<D>>,
    /// `[c, q d]`.
    o: Param<D>,
    /// `[c]`.
    mlp_norm: Param<D>,
    /// `[2 f, c]`.
    gate_up: Param<D>,
    /// `[c, f]`.
    down: Param<D>,
}

/// The residual stream between blocks: `x + delta`, where the sum is left to the next norm, which fuses it.
pub(super) struct Residual<D: Device> {
    x: Arc<D::Buf<D::Act>>,
    delta: Option<D::Buf<D::Act>>,
}

impl<D: Device> Residual<D> {
    pub(super) fn new(x: D::Buf<D::Act>) -> Self {
        Residual { x: Arc::new(x), delta: None }
    }

    /// Adds what is pending, normalises, and returns the sum.
    pub(super) fn normalise(
        self,
        device: &D,
        out: &mut D::Buf<D::Act>,
        rstd: &mut D::Buf<D::Acc>,
        weight: &Param<D>,
        config: &Config,
    ) -> Result<Arc<D::Buf<D::Act>>> {
        let (c, eps) = (config.hidden, config.eps);
        match self.delta {
            None => {
                device.rmsnorm_fwd(out, rstd, None, &self.x, &weight.value, c, eps)?;
                Ok(self.x)
            }
            Some(delta) => {
                let mut sum = device.empty(D::len(&delta))?;
                device.rmsnorm_fwd(out, rstd, Some((&mut sum, &delta)), &self.x, &weight.value, c, eps)?;
                Ok(Arc::new(sum))
            }
        }
    }
}

/// Keys and values of one layer: `k, v[slots, capacity, kv d]`.
pub(super) struct LayerCache<D: Device> {
    pub(super) k: D::Buf<D::Act>,
    pub(super) v: D::Buf<D::Act>,
}

/// What the queries attend to.
pub(super) enum Attend<'a, D: Device> {
    /// Their own packed sequence.
    Packed { bounds: &'a Bounds<D> },
    /// Their own packed sequence, which is also written to the cache.
    Prefill { bounds: &'a Bounds<D>, cache: &'a mut LayerCache<D>, slots: &'a D::Buf<u32>, capacity: usize },
    /// The cache, one query a sequence.
    Decode { cache: &'a mut LayerCache<D>, cursor: &'a Cursor<D>, capacity: usize },
}

/// From the first norm to o.
struct AttentionSaved<D: Device> {
    rstd: D::Buf<D::Acc>,
    h: D::Buf<D::Act>,
    z_qkv: D::Buf<D::Act>,
    qkv: D::Buf<D::Act>,
    out: D::Buf<D::Act>,
    lse: D::Buf<D::Acc>,
    z_o: D::Buf<D::Act>,
}

/// From the second norm to down. `act` is down's input, if that is needed.
struct MlpSaved<D: Device> {
    rstd: D::Buf<D::Acc>,
    h: D::Buf<D::Act>,
    z_gate_up: D::Buf<D::Act>,
    gate_up: D::Buf<D::Act>,
    act: D::Buf<D::Act>,
    z_down: D::Buf<D::Act>,
}

/// What a block keeps: at least the residual stream that entered it.
pub(super) struct BlockSaved<D: Device> {
    x: Arc<D::Buf<D::Act>>,
    attention: Option<(AttentionSaved<D>, Arc<D::Buf<D::Act>>)>,
    mlp: Option<MlpSaved<D>>,
}

impl<D: Device> BlockSaved<D> {
    /// Drops what backward is to compute again.
    pub(super) fn thin(mut self, recompute: Recompute) -> Self {
        match recompute {
            Recompute::None => {}
            Recompute::Mlp => self.mlp = None,
            Recompute::Block => (self.attention, self.mlp) = (None, None),
        }
        self
    }
}

/// A linear map with its branches: the arguments that forward and backward share.
struct Linear<'a, D: Device> {
    w: &'a Param<D>,
    bias: Option<&'a Param<D>>,
    side: Option<&'a LayerAdapter<D>>,
    targets: &'a [(Target, usize, usize)],
    dropout: Option<Dropout>,
    n: usize,
    k: usize,
}

impl<D: Device> Linear<'_, D> {
    /// Whether something of it is trained, which is what its input and `z` are kept for.
    fn learns(&self) -> bool {
        let slot = self.w.slot.or(self.bias.and_then(|bias| bias.slot));
        slot.is_some() || !lora::slots(self.side, self.targets).is_empty()
    }

    /// The buffer if it is needed, else an empty one in its place.
    fn keep(&self, device: &D, buf: D::Buf<D::Act>) -> Result<D::Buf<D::Act>> {
        if self.learns() { Ok(buf) } else { device.empty(0) }
    }

    /// What of [`Linear::forward`] backward needs, without its output.
    fn narrow(&self, device: &D, x: &D::Buf<D::Act>, t: usize) -> Result<D::Buf<D::Act>> {
        let branches = lora::branches(self.side, self.targets);
        let mut z = device.empty(t * narrow(&branches))?;
        device.lora_narrow(&mut z, x, &branches, self.dropout, (t, self.k))?;
        Ok(z)
    }

    fn forward(&self, device: &D, x: &D::Buf<D::Act>, t: usize) -> Result<(D::Buf<D::Act>, D::Buf<D::Act>)> {
        let branches = lora::branches(self.side, self.targets);
        let mut z = device.empty(t * narrow(&branches))?;
        let mut out = device.empty(t * self.n)?;
        let bias = self.bias.map(|bias| &bias.value);
        device.lora_linear_fwd(&mut out, &mut z, x, &self.w.value, bias, &branches, self.dropout, (t, self.n, self.k))?;
        Ok((out, z))
    }

    /// Returns `dx[t, k]`, unless nothing below is trained.
    fn backward(
        &self,
        device: &D,
        dout: &D::Buf<D::Act>,
        x: &D::Buf<D::Act>,
        z: &D::Buf<D::Act>,
        grads: &mut Grads<D>,
        below: bool,
        t: usize,
    ) -> Result<Option<D::Buf<D::Act>>> {
        let branches = lora::branches(self.side, self.targets);
        let slots = lora::slots(self.side, self.targets);
        let extents = (t, self.n, self.k);
        let mut dx = if below { Some(device.empty(t * self.k)?) } else { None };
        if below || !slots.is_empty() {
            let dx = dx.as_mut().map(|dx| (dx, false));
            let mut dbranches = grads.many(&slots);
            device.lora_linear_bwd(dx, &mut dbranches, dout, z, x, &self.w.value, &branches, self.dropout, extents)?;
        }
        if let Some(slot) = self.w.slot {
            match self.bias.and_then(|bias| bias.slot) {
                Some(bias) => {
                    let [dw, dbias]: [_; 2] = grads.many(&[slot, bias]).try_into().ok().expect("two slots were asked for");
                    device.linear_dweight(dw, Some(dbias), dout, x, extents)?;
                }
                None => device.linear_dweight(grads.at_mut(slot), None, dout, x, extents)?,
            }
        }
        Ok(dx)
    }
}

impl<D: Device> Block<D> {
    pub(super) fn build(config: &Config, layer: usize, param: &mut dyn FnMut(Vec<Part>) -> Result<Param<D>>) -> Result<Self> {
        let (c, f, heads) = (config.hidden, config.intermediate, config.heads);
        let (q, kv) = (heads.q_width(), heads.kv_width());
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let rows = [("q", q), ("k", kv), ("v", kv)];
        let qkv = rows.map(|(p, n)| Part::new(at(&format!("self_attn.{p}_proj.weight")), &[n, c]));
        let bias = rows.map(|(p, n)| Part::new(at(&format!("self_attn.{p}_proj.bias")), &[n]));
        let gate_up = ["gate", "up"].map(|p| Part::new(at(&format!("mlp.{p}_proj.weight")), &[f, c]));
        Ok(Block {
            attention_norm: param(vec![Part::new(at("input_layernorm.weight"), &[c])])?,
            qkv: param(qkv.to_vec())?,
            qkv_bias: if config.qkv_bias { Some(param(bias.to_vec())?) } else { None },
            o: param(vec![Part::new(at("self_attn.o_proj.weight"), &[c, q])])?,
            mlp_norm: param(vec![Part::new(at("post_attention_layernorm.weight"), &[c])])?,
            gate_up: param(gate_up.to_vec())?,
            down: param(vec![Part::new(at("mlp.down_proj.weight"), &[c, f])])?,
        })
    }

    /// The same block of other parameters.
    pub(super) fn try_map(&self, f: &mut dyn FnMut(&Param<D>) -> Result<Param<D>>) -> Result<Self> {
        Ok(Block {
            attention_norm: f(&self.attention_norm)?,
            qkv: f(&self.qkv)?,
            qkv_bias: self.qkv_bias.as_ref().map(&mut *f).transpose()?,
            o: f(&self.o)?,
            mlp_norm: f(&self.mlp_norm)?,
            gate_up: f(&self.gate_up)?,
            down: f(&self.down)?,
        })
    }

    pub(super) fn params(&self) -> Vec<&Param<D>> {
        let mut all = vec![&self.attention_norm, &self.qkv];
        all.extend(&self.qkv_bias);
        all.extend([&self.o, &self.mlp_norm, &self.gate_up, &self.down]);
        all
    }

    pub(super) fn params_mut(&mut self) -> Vec<&mut Param<D>> {
        let mut all = vec![&mut self.attention_norm, &mut self.qkv];
        all.extend(&mut self.qkv_bias);
        all.extend([&mut self.o, &mut self.mlp_norm, &mut self.gate_up, &mut self.down]);
        all
    }

    fn linears<'a>(
        &'a self,
        side: Option<&'a LayerAdapter<D>>,
        dropout: Option<Dropout>,
        config: &Config,
        targets: &'a Targets,
    ) -> [Linear<'a, D>; 4] {
        let (c, f, heads) = (config.hidden, config.intermediate, config.heads);
        let linear = |w, bias, targets, n, k| Linear { w, bias, side, targets, dropout, n, k };
        [
            linear(&self.qkv, self.qkv_bias.as_ref(), &targets.qkv[..], heads.qkv_width(), c),
            linear(&self.o, None, &targets.o[..], c, heads.q_width()),
            linear(&self.gate_up, None, &targets.gate_up[..], 2 * f, c),
            linear(&self.down, None, &targets.down[..], c, f),
        ]
    }

    pub(super) fn forward(
        &self,
        device: &D,
        residual: Residual<D>,
        side: Option<&LayerAdapter<D>>,
        dropout: Option<Dropout>,
        positions: &D::Buf<u32>,
        attend: Attend<'_, D>,
        config: &Config,
    ) -> Result<(Residual<D>, BlockSaved<D>)> {
        let targets = Targets::new(config);
        let [qkv, o, gate_up, down] = self.linears(side, dropout, config, &targets);
        let t = D::len(&residual.x) / config.hidden;
        let (attention, x, delta) = self.attention(device, residual, &qkv, &o, positions, attend, config, t)?;
        let residual = Residual { x: x.clone(), delta: Some(delta) };
        let (mlp, x2, delta) = self.mlp(device, residual, &gate_up, &down, config, t)?;
        let saved = BlockSaved { x, attention: Some((attention, x2.clone())), mlp: Some(mlp) };
        Ok((Residual { x: x2, delta: Some(delta) }, saved))
    }

    /// Returns what it saved, the residual stream that entered, and what attention adds to it.
    fn attention(
        &self,
        device: &D,
        residual: Residual<D>,
        qkv: &Linear<'_, D>,
        o: &Linear<'_, D>,
        positions: &D::Buf<u32>,
        attend: Attend<'_, D>,
        config: &Config,
        t: usize,
    ) -> Result<(AttentionSaved<D>, Arc<D::Buf<D::Act>>, D::Buf<D::Act>)> {
        let heads = config.heads;
        let (mut h, mut rstd) = (device.empty(t * config.hidden)?, device.empty(t)?);
        let x = residual.normalise(device, &mut h, &mut rstd, &self.attention_norm, config)?;
        let (mut packed, z_qkv) = qkv.forward(device, &h, t)?;
        let theta = config.rope_theta;
        let mut out = device.empty(t * heads.q_width())?;
        // Backward alone asks for it, and nothing goes backward from the cache.
        let kept = if matches!(attend, Attend::Decode { .. }) { 0 } else { heads.q * t };
        let mut lse = device.empty(kept)?;
        match attend {
            Attend::Packed { bounds } => {
                device.rope(&mut packed, positions, heads, theta, false)?;
                device.attention_fwd(&mut out, &mut lse, &packed, bounds, heads, t)?;
            }
            Attend::Prefill { bounds, cache: LayerCache { k, v }, slots, capacity } => {
                device.rope_cached(&mut packed, k, v, slots, positions, heads, theta, capacity)?;
                device.attention_fwd(&mut out, &mut lse, &packed, bounds, heads, t)?;
            }
            Attend::Decode { cache: LayerCache { k, v }, cursor: Cursor { slots, lengths, .. }, capacity } => {
                device.rope_cached(&mut packed, k, v, slots, positions, heads, theta, capacity)?;
                device.attention_decode(&mut out, &packed, k, v, slots, lengths, heads, capacity)?;
            }
        }
        let (delta, z_o) = o.forward(device, &out, t)?;
        let h = qkv.keep(device, h)?;
        Ok((AttentionSaved { rstd, h, z_qkv, qkv: packed, out, lse, z_o }, x, delta))
    }

    /// Returns what it saved, the residual stream that entered, and what the feed-forward layer adds to it.
    fn mlp(
        &self,
        device: &D,
        residual: Residual<D>,
        gate_up: &Linear<'_, D>,
        down: &Linear<'_, D>,
        config: &Config,
        t: usize,
    ) -> Result<(MlpSaved<D>, Arc<D::Buf<D::Act>>, D::Buf<D::Act>)> {
        let (saved, x) = self.expand(device, residual, gate_up, config, t)?;
        let act = self.activate(device, &saved.gate_up, config, t)?;
        let (delta, z_down) = down.forward(device, &act, t)?;
        Ok((MlpSaved { act: down.keep(device, act)?, z_down, ..saved }, x, delta))
    }

    /// What [`Block::mlp`] saved, once more, and the residual stream that entered. The product of down is not in it.
    fn mlp_again(
        &self,
        device: &D,
        residual: Residual<D>,
        gate_up: &Linear<'_, D>,
        down: &Linear<'_, D>,
        config: &Config,
        t: usize,
    ) -> Result<(MlpSaved<D>, Arc<D::Buf<D::Act>>)> {
        let (saved, x) = self.expand(device, residual, gate_up, config, t)?;
        if !down.learns() {
            return Ok((saved, x));
        }
        let act = self.activate(device, &saved.gate_up, config, t)?;
        let z_down = down.narrow(device, &act, t)?;
        Ok((MlpSaved { act, z_down, ..saved }, x))
    }

    /// From the second norm to gate and up: what is saved of it, what is down's being empty, and the residual stream that entered.
    fn expand(
        &self,
        device: &D,
        residual: Residual<D>,
        gate_up: &Linear<'_, D>,
        config: &Config,
        t: usize,
    ) -> Result<(MlpSaved<D>, Arc<D::Buf<D::Act>>)> {
        let (mut h, mut rstd) = (device.empty(t * config.hidden)?, device.empty(t)?);
        let x = residual.normalise(device, &mut h, &mut rstd, &self.mlp_norm, config)?;
        let (both, z_gate_up) = gate_up.forward(device, &h, t)?;
        let (act, z_down) = (device.empty(0)?, device.empty(0)?);
        Ok((MlpSaved { rstd, h: gate_up.keep(device, h)?, z_gate_up, gate_up: both, act, z_down }, x))
    }

    /// `SiLU(gate) * up`, which is down's input.
    fn activate(&self, device: &D, gate_up: &D::Buf<D::Act>, config: &Config, t: usize) -> Result<D::Buf<D::Act>> {
        let mut act = device.empty(t * config.intermediate)?;
        device.swiglu_fwd(&mut act, gate_up, config.intermediate)?;
        Ok(act)
    }

    /// `dresidual[t, c]` enters as the gradient at the block's output and leaves as that at its input. With `below` false nothing
    /// under this block is trained, and what only serves it is left out.
    pub(super) fn backward(
        &self,
        device: &D,
        dresidual: &mut D::Buf<D::Act>,
        saved: BlockSaved<D>,
        side: Option<&LayerAdapter<D>>,
        dropout: Option<Dropout>,
        batch: &Packed<D>,
        grads: &mut Grads<D>,
        below: bool,
        config: &Config,
    ) -> Result<()> {
        let (t, c, f, heads) = (batch.tokens, config.hidden, config.intermediate, config.heads);
        let targets = Targets::new(config);
        let [qkv, o, gate_up, down] = self.linears(side, dropout, config, &targets);
        let (attention, x2, mlp) = match (saved.attention, saved.mlp) {
            (Some((attention, x2)), Some(mlp)) => (attention, x2, mlp),
            (Some((attention, x2)), None) => {
                let residual = Residual { x: x2.clone(), delta: None };
                let (mlp, _) = self.mlp_again(device, residual, &gate_up, &down, config, t)?;
                (attention, x2, mlp)
            }
            (None, _) => {
                let residual = Residual { x: saved.x.clone(), delta: None };
                let attend = Attend::Packed { bounds: &batch.bounds };
                let (attention, x, delta) = self.attention(device, residual, &qkv, &o, &batch.positions, attend, config, t)?;
                let (mlp, x2) = self.mlp_again(device, Residual { x, delta: Some(delta) }, &gate_up, &down, config, t)?;
                (attention, x2, mlp)
            }
        };
        let always = |dx: Option<D::Buf<D::Act>>| dx.expect("a gradient was asked for");

        let dact = always(down.backward(device, dresidual, &mlp.act, &mlp.z_down, grads, true, t)?);
        let mut dgate_up = device.empty(t * 2 * f)?;
        device.swiglu_bwd(&mut dgate_up, &dact, &mlp.gate_up, f)?;
        let dh = always(gate_up.backward(device, &dgate_up, &mlp.h, &mlp.z_gate_up, grads, true, t)?);
        device.rmsnorm_bwd(dresidual, grads.of(&self.mlp_norm), &dh, &mlp.rstd, &x2, &self.mlp_norm.value, c)?;
        drop(mlp);

        let dout = always(o.backward(device, dresidual, &attention.out, &attention.z_o, grads, true, t)?);
        let mut dqkv = device.empty(t * heads.qkv_width())?;
        device.attention_bwd(&mut dqkv, &dout, &attention.out, &attention.lse, &attention.qkv, &batch.bounds, heads, t)?;
        device.rope(&mut dqkv, &batch.positions, heads, config.rope_theta, true)?;
        let below = below || self.attention_norm.slot.is_some();
        if let Some(dh) = qkv.backward(device, &dqkv, &attention.h, &attention.z_qkv, grads, below, t)? {
            let dweight = grads.of(&self.attention_norm);
            device.rmsnorm_bwd(dresidual, dweight, &dh, &attention.rstd, &saved.x, &self.attention_norm.value, c)?;
        }
        Ok(())
    }
}

/// Which adapter modules belong to each linear map, with their first column and width.
struct Targets {
    qkv: [(Target, usize, usize); 3],
    o: [(Target, usize, usize); 1],
    gate_up: [(Target, usize, usize); 2],
    down: [(Target, usize, usize); 1],
}

impl Targets {
    fn new(config: &Config) -> Targets {
        let (q, kv) = (config.heads.q_width(), config.heads.kv_width());
        let (c, f) = (config.hidden, config.intermediate);
        Targets {
            qkv: [(Target::Q, 0, q), (Target::K, q, kv), (Target::V, q + kv, kv)],
            o: [(Target::O, 0, c)],
            gate_up: [(Target::Gate, 0, f), (Target::Up, f, f)],
            down: [(Target::Down, 0, c)],
        }
    }
}
