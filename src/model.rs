//! The decoder that Qwen2.5 and Llama share: `embed -> blocks -> norm`, forward, and backward scheduled by hand. Heads are
//! applied by the caller ([`Decoder::head`], [`head::ScalarHead`]); losses and communication are not known here: backward
//! hands each finished layer's gradients to a closure.

mod block;
pub mod config;
pub mod head;
mod llama;
pub mod lora;
mod qwen2;
mod sharded;

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, Named, Storage, Tensors};
use crate::comm::Shared;
use crate::device::{Bounds, Cursor, Device, Dropout};
use crate::error::Result;
use crate::recipe::Recompute;
use crate::rng::Rng;
use crate::weights::{Grads, Param, Part, Trained};
use block::{Attend, Block, BlockSaved, Residual};
pub use config::{Architecture, Config};
pub use head::ScalarHead;
pub use lora::Adapter;
use sharded::Way;

/// A packed batch on the device.
pub struct Packed<D: Device> {
    /// `ids[t]`.
    pub ids: D::Buf<u32>,
    /// `positions[t]`, from 0 in each sequence.
    pub positions: D::Buf<u32>,
    /// Where sequences begin.
    pub bounds: Bounds<D>,
    /// `t`.
    pub tokens: usize,
}

impl<D: Device> Packed<D> {
    /// Packs sequences one after the other.
    pub fn new(device: &D, sequences: &[&[u32]]) -> Result<Self> {
        let ids: Vec<u32> = sequences.iter().flat_map(|sequence| sequence.iter().copied()).collect();
        let positions: Vec<u32> = sequences.iter().flat_map(|sequence| 0..sequence.len() as u32).collect();
        Ok(Packed {
            ids: device.upload(&ids)?,
            positions: device.upload(&positions)?,
            bounds: Bounds::from_lengths(device, sequences.iter().map(|sequence| sequence.len()))?,
            tokens: ids.len(),
        })
    }
}

/// How a training pass runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// What is kept from forward and what backward computes again.
    pub recompute: Recompute,
    /// LoRA's dropout, with a key of its own for each pass; none in evaluation and in PPO.
    pub dropout: Option<Dropout>,
}

/// What backward tells of each finished block: its number, and the gradients, of which the block's are complete.
pub type OnLayer<'a, D> = &'a mut dyn FnMut(usize, &mut Grads<D>) -> Result<()>;

/// What forward keeps for backward.
pub struct Saved<D: Device> {
    blocks: Vec<BlockSaved<D>>,
    last: Arc<D::Buf<D::Act>>,
    rstd: D::Buf<D::Acc>,
    pass: Pass,
}

/// A decoder's weights.
pub struct Decoder<D: Device> {
    /// The checkpoint's configuration.
    pub config: Config,
    /// `embed[v, c]`.
    pub embed: Param<D>,
    blocks: Vec<Block<D>>,
    norm: Param<D>,
    head: Option<Param<D>>,
    /// With whom the blocks are shared out; none where each is here as a whole.
    shares: Option<Shared<D>>,
    /// The weights in the host's memory, once they were parked there.
    parked: Vec<D::Host<D::Act>>,
}

impl<D: Device> Decoder<D> {
    /// Reads `config.json` and the tensors of a folder, with the language-model head unless it is a classifier's.
    pub fn load(device: &D, folder: &Path) -> Result<Self> {
        let config = Config::load(folder)?;
        let with_head = !config.classifier;
        Self::read(device, folder, config, with_head, None)
    }

    /// The same without the language-model head: what a scalar head goes on.
    pub fn load_body(device: &D, folder: &Path) -> Result<Self> {
        Self::read(device, folder, Config::load(folder)?, false, None)
    }

    /// The same with the blocks shared out over the ranks: each keeps its share of them, and no block is ever trained. Every rank
    /// calls it, and all passes over the blocks from then on.
    pub fn load_shared(device: &D, comm: &Shared<D>, folder: &Path, with_head: bool) -> Result<Self> {
        let config = Config::load(folder)?;
        let with_head = with_head && !config.classifier;
        Self::read(device, folder, config, with_head, Some(comm).filter(|comm| comm.group().ranks() > 1))
    }

    fn read(device: &D, folder: &Path, config: Config, with_head: bool, shares: Option<&Shared<D>>) -> Result<Self> {
        let tensors = Tensors::open_folder(folder)?;
        Self::build(device, config, with_head, shares, &mut |parts| {
            let mut values: Vec<f32> = Vec::with_capacity(parts.iter().map(Part::elements).sum());
            for part in &parts {
                tensors.read_into(&part.name, &part.shape, &mut values)?;
            }
            Param::frozen(device, parts, &values)
        })
    }

    /// A decoder of which only the extents matter, for a device that only counts; with `shares` as [`Decoder::load_shared`] has it.
    pub fn shaped(device: &D, shares: Option<&Shared<D>>, config: Config, with_head: bool) -> Result<Self> {
        let shares = shares.filter(|comm| comm.group().ranks() > 1);
        Self::build(device, config, with_head, shares, &mut |parts| Param::shaped(device, parts, false))
    }

    /// Moves the weights to the host's memory, until [`Decoder::unpark`]. They must not have been trained since they were moved there
    /// for the first time: what is there is kept.
    pub fn park(&mut self, device: &D) -> Result<()> {
        if self.parked.is_empty() {
            self.parked = self.params().into_iter().map(|param| device.offload(&param.value)).collect::<Result<_>>()?;
        }
        self.params_mut().into_iter().try_for_each(|param| {
            param.value = device.empty(0)?;
            Ok(())
        })
    }

    /// Brings parked weights back; nothing to do where none are.
    pub fn unpark(&mut self, device: &D) -> Result<()> {
        let values = self.parked.iter().map(|host| device.fetch(host)).collect::<Result<Vec<_>>>()?;
        self.params_mut().into_iter().zip(values).for_each(|(param, value)| param.value = value);
        Ok(())
    }

    /// Random weights: matrices N(0, 0.02), or N(0, 0.02 / sqrt(2 layers)) where they write to the residual stream (Radford et
    /// al. 2019), norms 1, biases 0.
    pub fn random(device: &D, config: Config, seed: u64) -> Result<Self> {
        let residual = 0.02 / (2.0 * config.layers as f64).sqrt();
        let mut index = 0;
        Self::build(device, config, true, None, &mut |parts| {
            let mut values: Vec<f32> = Vec::new();
            for part in &parts {
                index += 1;
                let mut rng = Rng::new(seed, "init", index);
                let writes = part.name.ends_with("o_proj.weight") || part.name.ends_with("down_proj.weight");
                let deviation = if writes { residual } else { 0.02 };
                values.extend((0..part.elements()).map(|_| match part.shape.len() {
                    1 if part.name.ends_with("norm.weight") => 1.0,
                    1 => 0.0,
                    _ => (rng.normal() * deviation) as f32,
                }));
            }
            Param::frozen(device, parts, &values)
        })
    }

    fn build(
        device: &D,
        config: Config,
        with_head: bool,
        shares: Option<&Shared<D>>,
        make: &mut dyn FnMut(Vec<Part>) -> Result<Param<D>>,
    ) -> Result<Self> {
        let param = &mut |parts: Vec<Part>| -> Result<Param<D>> {
            let mut param = make(parts)?;
            if let Some(comm) = shares.filter(|_| param.layer().is_some()) {
                sharded::cut(device, &**comm, &mut param)?;
            }
            Ok(param)
        };
        let table = [config.vocab, config.hidden];
        let embed = param(vec![Part::new("model.embed_tokens.weight", &table)])?;
        let blocks = (0..config.layers).map(|layer| Block::build(&config, layer, param)).collect::<Result<_>>()?;
        let norm = param(vec![Part::new("model.norm.weight", &[config.hidden])])?;
        let head = match with_head && !config.tied {
            true => Some(param(vec![Part::new("lm_head.weight", &table)])?),
            false => None,
        };
        Ok(Decoder { config, embed, blocks, norm, head, shares: shares.cloned(), parked: Vec::new() })
    }

    /// The language-model head `[v, c]`: its own matrix, or the embedding where they are tied.
    pub fn head(&self) -> &Param<D> {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Every parameter, in the order of the layers.
    pub fn params(&self) -> Vec<&Param<D>> {
        let mut all = vec![&self.embed];
        self.blocks.iter().for_each(|block| all.extend(block.params()));
        all.push(&self.norm);
        all.extend(&self.head);
        all
    }

    /// Every parameter, in the same order.
    pub fn params_mut(&mut self) -> Vec<&mut Param<D>> {
        let mut all = vec![&mut self.embed];
        self.blocks.iter_mut().for_each(|block| all.extend(block.params_mut()));
        all.push(&mut self.norm);
        all.extend(&mut self.head);
        all
    }

    /// Writes `config.json` and `model.safetensors`.
    pub fn save(&self, device: &D, folder: &Path, storage: Storage, more: Vec<Named>) -> Result<()> {
        let mut tensors = self.named(device, None)?;
        tensors.extend(more);
        checkpoint::write_tensors(&folder.join("model.safetensors"), &tensors, storage)?;
        checkpoint::write_json(&folder.join("config.json"), &self.config.to_json(storage))
    }

    /// Every tensor by its name in the checkpoint; what is trained takes its values from `trained`, where that is given.
    pub fn named(&self, device: &D, trained: Option<&Trained>) -> Result<Vec<Named>> {
        let params = self.params().into_iter().map(|param| param.named(device, trained)).collect::<Result<Vec<_>>>()?;
        Ok(params.into_iter().flatten().collect())
    }

    fn embedded(&self, device: &D, ids: &D::Buf<u32>, tokens: usize) -> Result<D::Buf<D::Act>> {
        let mut out = device.empty(tokens * self.config.hidden)?;
        device.embed_fwd(&mut out, &self.embed.value, ids, self.config.hidden)?;
        Ok(out)
    }

    /// The final norm: `hidden[t, c]`, the residual stream under it and `rstd[t]`.
    fn finish(
        &self,
        device: &D,
        residual: Residual<D>,
        tokens: usize,
    ) -> Result<(D::Buf<D::Act>, Arc<D::Buf<D::Act>>, D::Buf<D::Acc>)> {
        let mut hidden = device.empty(tokens * self.config.hidden)?;
        let mut rstd = device.empty(tokens)?;
        let last = residual.normalise(device, &mut hidden, &mut rstd, &self.norm, &self.config)?;
        Ok((hidden, last, rstd))
    }

    /// `hidden[t, c]` after the final norm, keeping what backward needs.
    pub fn forward(
        &self,
        device: &D,
        batch: &Packed<D>,
        adapter: Option<&Adapter<D>>,
        pass: Pass,
    ) -> Result<(D::Buf<D::Act>, Saved<D>)> {
        let residual = Residual::new(self.embedded(device, &batch.ids, batch.tokens)?);
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let residual = self.fold(device, Way::Up, residual, |residual, layer, block| {
            let side = adapter.map(|adapter| &adapter.layers[layer]);
            let attend = Attend::Packed { bounds: &batch.bounds };
            let (next, saved) = block.forward(device, residual, side, pass.dropout, &batch.positions, attend, &self.config)?;
            blocks.push(saved.thin(pass.recompute));
            Ok(next)
        })?;
        let (hidden, last, rstd) = self.finish(device, residual, batch.tokens)?;
        Ok((hidden, Saved { blocks, last, rstd, pass }))
    }

    /// `hidden[t, c]` after the final norm, keeping nothing.
    pub fn infer(&self, device: &D, batch: &Packed<D>, adapter: Option<&Adapter<D>>) -> Result<D::Buf<D::Act>> {
        let residual = Residual::new(self.embedded(device, &batch.ids, batch.tokens)?);
        let residual = self.fold(device, Way::Up, residual, |residual, layer, block| {
            let side = adapter.map(|adapter| &adapter.layers[layer]);
            let attend = Attend::Packed { bounds: &batch.bounds };
            Ok(block.forward(device, residual, side, None, &batch.positions, attend, &self.config)?.0)
        })?;
        Ok(self.finish(device, residual, batch.tokens)?.0)
    }

    /// Backward from `dhidden[t, c]`. Gradients are added to `grads`; `on_layer` sees them after each finished layer, from the
    /// last block (`layers - 1`) to the first, so that their reduction can overlap with what is left.
    pub fn backward(
        &self,
        device: &D,
        batch: &Packed<D>,
        adapter: Option<&Adapter<D>>,
        saved: Saved<D>,
        dhidden: &D::Buf<D::Act>,
        grads: &mut Grads<D>,
        on_layer: OnLayer<'_, D>,
    ) -> Result<()> {
        let c = self.config.hidden;
        let mut dresidual = device.zeros(batch.tokens * c)?;
        let dnorm = grads.of(&self.norm);
        device.rmsnorm_bwd(&mut dresidual, dnorm, dhidden, &saved.rstd, &saved.last, &self.norm.value, c)?;
        let Saved { blocks, pass, .. } = saved;
        let mut kept = blocks.into_iter().rev();
        self.fold(device, Way::Down, (), |(), layer, block| {
            let side = adapter.map(|adapter| &adapter.layers[layer]);
            let below = layer > 0 || self.embed.slot.is_some();
            let kept = kept.next().expect("forward kept something of every block");
            block.backward(device, &mut dresidual, kept, side, pass.dropout, batch, grads, below, &self.config)?;
            on_layer(layer, grads)
        })?;
        if let Some(dtable) = grads.of(&self.embed) {
            device.embed_bwd(dtable, &dresidual, &batch.ids, c)?;
        }
        Ok(())
    }
}

/// The keys and values of the sequences being generated, for every layer.
pub struct Cache<D: Device> {
    layers: Vec<block::LayerCache<D>>,
    /// Sequences it has room for.
    pub slots: usize,
    /// Tokens a sequence may have.
    pub capacity: usize,
}

impl<D: Device> Decoder<D> {
    /// Room for `slots` sequences of up to `capacity` tokens.
    pub fn cache(&self, device: &D, slots: usize, capacity: usize) -> Result<Cache<D>> {
        let elements = slots * capacity * self.config.heads.kv_width();
        let layer = || Ok(block::LayerCache { k: device.zeros(elements)?, v: device.zeros(elements)? });
        Ok(Cache { layers: (0..self.config.layers).map(|_| layer()).collect::<Result<_>>()?, slots, capacity })
    }

    /// Runs whole prompts and fills the cache: `slot[i]` is where sequence `i` of the batch goes. Returns `hidden[t, c]`.
    pub fn prefill(
        &self,
        device: &D,
        batch: &Packed<D>,
        slots: &[u32],
        cache: &mut Cache<D>,
        adapter: Option<&Adapter<D>>,
    ) -> Result<D::Buf<D::Act>> {
        let by_token: Vec<u32> = batch
            .bounds
            .host
            .windows(2)
            .zip(slots)
            .flat_map(|(range, slot)| std::iter::repeat_n(*slot, (range[1] - range[0]) as usize))
            .collect();
        let by_token = device.upload(&by_token)?;
        let capacity = cache.capacity;
        let residual = Residual::new(self.embedded(device, &batch.ids, batch.tokens)?);
        let residual = self.fold(device, Way::Up, residual, |residual, layer, block| {
            let side = adapter.map(|adapter| &adapter.layers[layer]);
            let attend = Attend::Prefill { bounds: &batch.bounds, cache: &mut cache.layers[layer], slots: &by_token, capacity };
            Ok(block.forward(device, residual, side, None, &batch.positions, attend, &self.config)?.0)
        })?;
        Ok(self.finish(device, residual, batch.tokens)?.0)
    }

    /// One more token for each row of a batch: `ids[b]`, where `cursor` stands. Returns `hidden[b, c]`. Nothing is uploaded: the same
    /// buffers make it the same launches.
    pub fn decode(
        &self,
        device: &D,
        ids: &D::Buf<u32>,
        cursor: &Cursor<D>,
        cache: &mut Cache<D>,
        adapter: Option<&Adapter<D>>,
    ) -> Result<D::Buf<D::Act>> {
        let (rows, capacity) = (D::len(ids), cache.capacity);
        let residual = Residual::new(self.embedded(device, ids, rows)?);
        let residual = self.fold(device, Way::Up, residual, |residual, layer, block| {
            let side = adapter.map(|adapter| &adapter.layers[layer]);
            let attend = Attend::Decode { cache: &mut cache.layers[layer], cursor, capacity };
            Ok(block.forward(device, residual, side, None, &cursor.positions, attend, &self.config)?.0)
        })?;
        Ok(self.finish(device, residual, rows)?.0)
    }

    /// Whether each pass over the blocks brings their weights together, which no two passes do with the same buffers.
    pub fn is_shared(&self) -> bool {
        self.shares.is_some()
    }
}
