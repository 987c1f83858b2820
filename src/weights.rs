//! Named tensors on a device and their gradients. A parameter may stack several of the checkpoint's tensors by rows (q, k, v;
//! gate, up), which are then stored and multiplied as one matrix.

use crate::device::{Device, Real};
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
        D::len(&self.value)
    }

    /// Each part with its values in `T`, from the master where there is one.
    pub fn read<T: Real>(&self, device: &D) -> Result<Vec<(Part, Vec<T>)>> {
        let values: Vec<T> = match &self.master {
            Some(master) => device.download(master)?.into_iter().map(|x| T::of(x.f64())).collect(),
            None => device.download(&self.value)?.into_iter().map(|x| T::of(x.f64())).collect(),
        };
        Ok(split(&self.parts, values))
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
    buffers: Vec<D::Buf<D::Acc>>,
}

impl<D: Device> Grads<D> {
    /// Takes these parameters for training: gives each a master and a slot, and a gradient of zeros.
    pub fn new(device: &D, params: &mut [&mut Param<D>]) -> Result<Self> {
        let mut grads = Grads { parts: Vec::new(), buffers: Vec::new() };
        for (slot, param) in params.iter_mut().enumerate() {
            if param.master.is_none() {
                let mut master = device.empty(param.elements())?;
                device.cast(&mut master, &param.value)?;
                param.master = Some(master);
            }
            param.slot = Some(slot);
            grads.parts.push(param.parts.clone());
            grads.buffers.push(device.zeros(param.elements())?);
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
