// SPDX-License-Identifier: GPL-2.0-only
//! The `struct sched_ext_ops` of an opened object, member by member.
//!
//! libbpf keeps it as the struct's bytes in which each op holds a pointer to its `bpf_program`; writing NULL
//! there leaves the op out.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::types::{MemberAttr, Struct};
use libbpf_rs::{AsRawLibbpf, MapType, OpenMapMut, OpenObject};

use crate::globals::btf_of;

/// Layout and contents of the ops of one object.
#[derive(Debug, Clone)]
pub(crate) struct StructOps {
    /// Name of the map, which is the name of the ops variable.
    pub map: String,
    /// Byte offset of each member.
    offsets: BTreeMap<String, usize>,
    /// Op and the name of the program that implements it.
    pub programs: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl StructOps {
    pub fn of(object: &OpenObject) -> Result<Self> {
        let mut maps = object.maps().filter(|map| map.map_type() == MapType::StructOps);
        let map = maps.next().context("it defines no sched_ext_ops (POLICY_DEFINE is missing)")?;
        if maps.next().is_some() {
            bail!("it defines more than one sched_ext_ops");
        }
        let bytes = map.initial_value().context("its sched_ext_ops are empty")?.to_vec();
        let offsets = member_offsets(object)?;

        let names: BTreeMap<u64, String> = object
            .progs()
            .map(|prog| (prog.as_libbpf_object().as_ptr() as u64, prog.name().to_string_lossy().into_owned()))
            .collect();
        let programs = offsets
            .iter()
            .filter_map(|(op, offset)| Some((op.clone(), names.get(&word(&bytes, *offset, 8)?)?.clone())))
            .collect();
        Ok(StructOps { map: map.name().to_string_lossy().into_owned(), offsets, programs, bytes })
    }

    /// A plain integer member.
    pub fn number(&self, member: &str, size: usize) -> u64 {
        self.offsets.get(member).and_then(|offset| word(&self.bytes, *offset, size)).unwrap_or(0)
    }

    /// The scheduler's name.
    pub fn name(&self) -> String {
        let Some(offset) = self.offsets.get("name") else { return String::new() };
        let bytes = self.bytes.get(*offset..).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Leaves an op out.
    pub fn clear_op(&mut self, object: &mut OpenObject, op: &str) -> Result<()> {
        self.programs.retain(|(name, _)| name != op);
        self.set_number(object, op, 8, 0)
    }

    /// Sets an integer member (or an op's pointer) of `size` bytes.
    pub fn set_number(&self, object: &mut OpenObject, member: &str, size: usize, value: u64) -> Result<()> {
        let Some(&offset) = self.offsets.get(member) else { return Ok(()) };
        let mut map = ops_map(object, &self.map)?;
        let bytes = map.initial_value_mut().context("the sched_ext_ops are empty")?;
        bytes
            .get_mut(offset..offset + size)
            .context("the sched_ext_ops are shorter than their type")?
            .copy_from_slice(&value.to_ne_bytes()[..size]);
        Ok(())
    }
}

fn ops_map<'obj>(object: &'obj mut OpenObject, name: &str) -> Result<OpenMapMut<'obj>> {
    object
        .maps_mut()
        .find(|map| map.map_type() == MapType::StructOps && map.name() == name)
        .context("the sched_ext_ops are gone")
}

fn member_offsets(object: &OpenObject) -> Result<BTreeMap<String, usize>> {
    let btf = btf_of(object)?;
    let ops = btf.type_by_name::<Struct<'_>>("sched_ext_ops").context("it knows no struct sched_ext_ops")?;
    Ok(ops
        .iter()
        .filter_map(|member| match member.attr {
            MemberAttr::Normal { offset } => {
                Some((member.name?.to_string_lossy().into_owned(), offset as usize / 8))
            }
            MemberAttr::BitField { .. } => None,
        })
        .collect())
}

fn word(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word[..size].copy_from_slice(bytes.get(offset..offset + size)?);
    Some(u64::from_ne_bytes(word))
}
