// SPDX-License-Identifier: GPL-2.0-only
//! Global variables of a BPF object, found by name through its BTF.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::types::{DataSec, Int, IntEncoding, Var};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};
use libbpf_rs::{AsRawLibbpf, MapCore as _, MapFlags, Object, OpenObject};

/// Where a variable is and what fits in it.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    pub section: String,
    pub offset: usize,
    pub size: usize,
    /// `None` for anything but an integer or bool.
    pub int: Option<IntType>,
    pub type_id: u32,
}

/// An integer type as C has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntType {
    pub bytes: usize,
    pub signed: bool,
    pub boolean: bool,
}

/// All global variables of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globals(BTreeMap<String, Global>);

impl Globals {
    pub fn of(btf: &Btf<'_>) -> Self {
        let mut all = BTreeMap::new();
        for section in btf.type_by_kind::<DataSec<'_>>() {
            let section_name = section.name().unwrap_or_default().to_string_lossy().into_owned();
            for info in section.iter() {
                let Some(var) = btf.type_by_id::<Var<'_>>(info.ty) else { continue };
                let Some(name) = var.name() else { continue };
                let global = Global {
                    section: section_name.clone(),
                    offset: info.offset as usize,
                    size: info.size,
                    int: btf.type_by_id::<BtfType<'_>>(info.ty).and_then(|ty| int_type(&ty)),
                    type_id: raw_id(info.ty),
                };
                all.insert(name.to_string_lossy().into_owned(), global);
            }
        }
        Globals(all)
    }

    pub fn get(&self, name: &str) -> Option<&Global> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Global)> {
        self.0.iter()
    }

    /// Writes a variable's value before the object is loaded. Does nothing if there is no such variable.
    pub fn set(&self, object: &mut OpenObject, name: &str, value: u64) -> Result<()> {
        let Some(global) = self.get(name) else { return Ok(()) };
        self.set_bytes(object, name, &value.to_ne_bytes()[..global.size.min(8)])
    }

    /// Writes the beginning of a variable, an array perhaps.
    pub fn set_bytes(&self, object: &mut OpenObject, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(global) = self.get(name) else { return Ok(()) };
        for mut map in object.maps_mut() {
            if !names_section(&map.name().to_string_lossy(), &global.section) {
                continue;
            }
            let data = map.initial_value_mut().context("the section has no data")?;
            let slot = data
                .get_mut(global.offset..global.offset + global.size)
                .and_then(|slot| slot.get_mut(..bytes.len()))
                .with_context(|| format!("{name} lies outside its section"))?;
            slot.copy_from_slice(bytes);
            return Ok(());
        }
        bail!("the object has no section {}", global.section)
    }

    /// Reads a variable of a loaded object.
    pub fn read(&self, object: &Object, name: &str) -> Result<Vec<u8>> {
        let global = self.get(name).with_context(|| format!("the object has no variable {name}"))?;
        let section = read_section(object, &global.section)?;
        section
            .get(global.offset..global.offset + global.size)
            .map(<[u8]>::to_vec)
            .with_context(|| format!("{name} lies outside its section"))
    }

    /// Reads an unsigned variable of at most eight bytes.
    pub fn read_u64(&self, object: &Object, name: &str) -> Result<u64> {
        let bytes = self.read(object, name)?;
        let mut word = [0; 8];
        word.get_mut(..bytes.len()).with_context(|| format!("{name} is no integer"))?.copy_from_slice(&bytes);
        Ok(u64::from_ne_bytes(word))
    }
}

/// The whole of a data section of a loaded object.
pub(crate) fn read_section(object: &Object, section: &str) -> Result<Vec<u8>> {
    let map = object
        .maps()
        .find(|map| names_section(&map.name().to_string_lossy(), section))
        .with_context(|| format!("the object has no section {section}"))?;
    map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)
        .with_context(|| format!("reading section {section}"))?
        .with_context(|| format!("section {section} is empty"))
}

/// libbpf calls the map of `.data` `OBJECT.data`, but that of `.data.x` just `.data.x`.
pub(crate) fn names_section(map: &str, section: &str) -> bool {
    map == section || map.strip_suffix(section).is_some_and(|object| !object.contains('.'))
}

/// The BTF of an object that has been opened.
pub(crate) fn btf_of(object: &OpenObject) -> Result<Btf<'_>> {
    // SAFETY: the pointer belongs to `object`, which outlives the borrow that is returned.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    Btf::from_bpf_object(raw)?.context("it has no BTF: compile it with clang -g")
}

fn int_type(var: &BtfType<'_>) -> Option<IntType> {
    let ty = var.next_type()?.skip_mods_and_typedefs();
    if ty.kind() != BtfKind::Int {
        return None;
    }
    let int = Int::try_from(ty).ok()?;
    Some(IntType {
        bytes: int.bits as usize / 8,
        signed: matches!(int.encoding, IntEncoding::Signed),
        boolean: matches!(int.encoding, IntEncoding::Bool),
    })
}

/// A type id as a number: libbpf-rs keeps it opaque, but a declaration tag must be matched to its variable.
pub(crate) fn raw_id(id: TypeId) -> u32 {
    id.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_names() {
        assert!(names_section("fifo_bpf.data", ".data"));
        assert!(names_section(".data.uei_dump", ".data.uei_dump"));
        assert!(!names_section(".data.uei_dump", ".data"));
        assert!(!names_section("fifo.rodata", ".data"));
    }
}
