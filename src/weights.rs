//! Named tensors on a device and their gradients. A parameter may stack several of the checkpoint's tensors by rows (q, k, v;
//! gate, up), which are then stored and multiplied as one matrix.

use std::ops::Range;

use crate::checkpoint::Named;
use crate::comm::shard;
use crate::device::{Device, Elem, Real};
use crate::error::{Error, Result};

/// A tensor of the checkpoint inside a [`Param`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The checkpoint's name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its extent; the rows of the parts add up to the parameter's.
    pub shape: Vec<usize>,
}

impl Part {
    /// A part of this name and extent.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Part {
        Part { name: name.into(), shape: shape.to_vec() }
    }

    /// Elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A parameter: what matmuls read, and, when it is trained, its master copy and the place of its gradient.
pub struct Param<D: Device> {
    /// The checkpoint's tensors, in the order they are stacked.
    pub parts: Vec<Part>,
    /// The values that operators read.
    pub value: D::Buf<D::Act>,
    /// The values that the optimizer keeps; `value` is their rounded copy.
    pub master: Option<D::Buf<D::Acc>>,
    /// Its gradient's index in [`Grads`]; none while it is frozen.
    pub slot: Option<usize>,
    /// Whether weight decay applies: matrices only, as Transformers' trainer has it.
    pub decay: bool,
}

impl<D: Device> Param<D> {
    /// A frozen parameter. `values` are the parts' elements in turn.
    pub fn frozen<T: Real>(device: &D, parts: Vec<Part>, values: &[T]) -> Result<Self> {
        let elements: usize = parts.iter().map(Part::elements).sum();
        if elements != values.len() {
            return Err(Error::Extent { what: parts[0].name.clone(), want: elements, got: values.len() });
        }
        let mut value = device.empty(elements)?;
        device.cast(&mut value, &device.upload(values)?)?;
        let decay = parts[0].shape.len() > 1;
        Ok(Param { parts, value, master: None, slot: None, decay })
    }

    /// A parameter of which only the extent matters: its values are whatever the memory holds. Memory is taken as if the values came
    /// from the host in f32, as they do.
    pub fn shaped(device: &D, parts: Vec<Part>, with_master: bool) -> Result<Self> {
        let elements = parts.iter().map(Part::elements).sum();
        let mut value = device.empty(elements)?;
        device.cast(&mut value, &device.empty::<f32>(elements)?)?;
        let decay = parts[0].shape.len() > 1;
        let mut param = Param { parts, value, master: None, slot: None, decay };
        if with_master {
            let mut master = device.empty(elements)?;
            device.cast(&mut master, &device.empty::<f32>(elements)?)?;
            param.master = Some(master);
        }
        Ok(param)
    }

    /// A parameter with a master copy, ready to be trained.
    pub fn master<T: Real>(device: &D, parts: Vec<Part>, values: &[T]) -> Result<Self> {
        let mut param = Self::frozen(device, parts, values)?;
        let mut master = device.empty(values.len())?;
        device.cast(&mut master, &device.upload(values)?)?;
        param.master = Some(master);
        Ok(param)
    }

    /// Elements of all parts.
    pub fn elements(&self) -> usize {
        self.parts.iter().map(Part::elements).sum()
    }

    /// The block that it belongs to, by its name in the checkpoint: `model.layers.3. ...`; none for embedding, last norm and heads.
    pub fn layer(&self) -> Option<usize> {
        let (_, rest) = self.parts[0].name.split_once("layers.")?;
        rest.split('.').next()?.parse().ok()
    }

    /// Each part with its values in `T`, from the master where there is one. A master of which this rank holds only its share is
    /// an error: [`Optimizer::masters`](crate::optim::Optimizer::masters) brings the shares together.
    pub fn read<T: Real>(&self, device: &D) -> Result<Vec<(Part, Vec<T>)>> {
        let values: Vec<T> = match &self.master {
            Some(master) => {
                crate::device::extent::<D, D::Acc>(&format!("master of {}", self.parts[0].name), master, self.elements())?;
                device.download(master)?.into_iter().map(|x| T::of(x.f64())).collect()
            }
            None => device.download(&self.value)?.into_iter().map(|x| T::of(x.f64())).collect(),
        };
        Ok(split(&self.parts, values))
    }

    /// The same as tensors for a file; a parameter that is trained takes its values from `trained`, where that is given.
    pub fn named(&self, device: &D, trained: Option<&Trained>) -> Result<Vec<Named>> {
        let parts = match (trained, self.slot) {
            (Some(trained), Some(slot)) => split(&self.parts, trained.0[slot].clone()),
            _ => self.read(device)?,
        };
        Ok(parts.into_iter().map(|(part, values)| Named { name: part.name, shape: part.shape, values }).collect())
    }

    /// Sets the values (and the master) to these, given as the parts' elements in turn.
    pub fn write<T: Real>(&mut self, device: &D, values: &[T]) -> Result<()> {
        crate::device::extent::<D, D::Act>(&self.parts[0].name, &self.value, values.len())?;
        let host = device.upload(values)?;
        device.cast(&mut self.value, &host)?;
        if let Some(master) = &mut self.master {
            device.cast(master, &host)?;
        }
        Ok(())
    }
}

/// Host copies of what is trained, whole and exact, by slot: what a file is written from while the device goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained(pub Vec<Vec<f32>>);

/// A copy of elements of a buffer.
fn part<D: Device, T: Elem>(device: &D, from: &D::Buf<T>, range: Range<usize>) -> Result<D::Buf<T>> {
    let mut copy = device.empty(range.len())?;
    device.copy(&mut copy, 0, from, range.start, range.len())?;
    Ok(copy)
}

fn split<T: Clone>(parts: &[Part], values: Vec<T>) -> Vec<(Part, Vec<T>)> {
    let mut at = 0;
    parts
        .iter()
        .map(|part| {
            at += part.elements();
            (part.clone(), values[at - part.elements()..at].to_vec())
        })
        .collect()
}

/// The gradients of the parameters that are trained, by slot.
pub struct Grads<D: Device> {
    parts: Vec<Vec<Part>>,
    layers: Vec<Option<usize>>,
    buffers: Vec<D::Buf<D::Acc>>,
}

impl<D: Device> Grads<D> {
    /// Takes these parameters for training: gives each a master and a slot, and a gradient of zeros.
    pub fn new(device: &D, params: &mut [&mut Param<D>]) -> Result<Self> {
        Self::on_rank(device, params, (1, 0), true)
    }

    /// The same on rank `rank` of `ranks`, which holds its share of the masters ([`shard`]); with `whole` false the gradients are
    /// empty until somebody makes room for them.
    pub fn on_rank(device: &D, params: &mut [&mut Param<D>], (ranks, rank): (usize, usize), whole: bool) -> Result<Self> {
        let mut grads = Grads { parts: Vec::new(), layers: Vec::new(), buffers: Vec::new() };
        for (slot, param) in params.iter_mut().enumerate() {
            let own = shard(param.elements(), ranks, rank);
            param.master = Some(match param.master.take() {
                Some(master) if ranks == 1 => master,
                Some(master) => part(device, &master, own)?,
                None => {
                    let mut master = device.empty(own.len())?;
                    match ranks {
                        1 => device.cast(&mut master, &param.value)?,
                        _ => device.cast(&mut master, &part(device, &param.value, own)?)?,
                    }
                    master
                }
            });
            param.slot = Some(slot);
            grads.parts.push(param.parts.clone());
            grads.layers.push(param.layer());
            grads.buffers.push(device.zeros(if whole || ranks == 1 { param.elements() } else { 0 })?);
        }
        Ok(grads)
    }

    /// Parameters that are trained.
    pub fn count(&self) -> usize {
        self.buffers.len()
    }

    /// The gradient in a slot.
    pub fn at(&self, slot: usize) -> &D::Buf<D::Acc> {
        &self.buffers[slot]
    }

    /// Elements of the parameter in a slot, whether or not its gradient is there.
    pub fn elements(&self, slot: usize) -> usize {
        self.parts[slot].iter().map(Part::elements).sum()
    }

    /// The block that a slot's parameter belongs to.
    pub fn layer(&self, slot: usize) -> Option<usize> {
        self.layers[slot]
    }

    /// Puts another buffer into a slot and returns the one that was there: an empty one, while nothing is added to the gradient.
    pub fn replace(&mut self, slot: usize, buffer: D::Buf<D::Acc>) -> D::Buf<D::Acc> {
        std::mem::replace(&mut self.buffers[slot], buffer)
    }

    /// The gradient in a slot.
    pub fn at_mut(&mut self, slot: usize) -> &mut D::Buf<D::Acc> {
        &mut self.buffers[slot]
    }

    /// The gradient of a parameter, if it is trained.
    pub fn of(&mut self, param: &Param<D>) -> Option<&mut D::Buf<D::Acc>> {
        param.slot.map(|slot| &mut self.buffers[slot])
    }

    /// The gradients in distinct slots, in the order asked for.
    pub fn many(&mut self, slots: &[usize]) -> Vec<&mut D::Buf<D::Acc>> {
        let mut found: Vec<Option<&mut D::Buf<D::Acc>>> = slots.iter().map(|_| None).collect();
        for (slot, buffer) in self.buffers.iter_mut().enumerate() {
            if let Some(place) = slots.iter().position(|s| *s == slot) {
                found[place] = Some(buffer);
            }
        }
        found.into_iter().map(|buffer| buffer.expect("slots are distinct and below the count")).collect()
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self, device: &D) -> Result<()> {
        self.buffers.iter_mut().try_for_each(|buffer| device.clear(buffer))
    }

    /// Every gradient by the checkpoint's tensor names.
    pub fn by_name(&self, device: &D) -> Result<Vec<(Part, Vec<D::Acc>)>> {
        let mut all = Vec::new();
        for (parts, buffer) in self.parts.iter().zip(&self.buffers) {
            all.extend(split(parts, device.download(buffer)?));
        }
        Ok(all)
    }

    /// The first tensor name of a slot, for messages.
    pub fn name(&self, slot: usize) -> &str {
        &self.parts[slot][0].name
    }
}
