// SPDX-License-Identifier: GPL-2.0-only
//! How an object's memory is laid out, as a number: whether two objects can share it.

use std::fmt::Write as _;

use anyhow::Result;
use libbpf_rs::OpenObject;
use libbpf_rs::btf::types::{Array, Composite, DataSec, Struct, Var};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};

use super::is_shared_section;
use crate::globals::btf_of;

/// Structs in structs; deeper ones do not occur in what is shared.
const MAX_DEPTH: u32 = 8;

/// A number that two objects have in common if their variables and map values lie alike. Sizes alone would not show two
/// fields that have changed places.
pub(crate) fn layout(object: &OpenObject) -> Result<String> {
    let btf = btf_of(object)?;
    let mut text = String::new();
    for section in btf.type_by_kind::<DataSec<'_>>() {
        let name = section.name().unwrap_or_default().to_string_lossy().into_owned();
        for info in section.iter() {
            let Some(var) = btf.type_by_id::<Var<'_>>(info.ty) else { continue };
            let var_name = var.name().unwrap_or_default().to_string_lossy().into_owned();
            if name == ".maps" {
                let _ = write!(text, "map {var_name}:");
                map_value(&mut text, &btf, info.ty);
            } else if is_shared_section(&name) {
                let _ = write!(text, "{name} {var_name}@{}+{}:", info.offset, info.size);
                describe(&mut text, &btf, info.ty, 0);
            }
        }
    }
    Ok(format!("{:016x}", fnv1a(text.as_bytes())))
}

/// A map is a variable of a struct whose member `value` points to the type of the values.
fn map_value(text: &mut String, btf: &Btf<'_>, var: TypeId) {
    let definition =
        btf.type_by_id::<BtfType<'_>>(var).and_then(|var| Struct::try_from(var.next_type()?).ok());
    let Some(definition) = definition else { return };
    let value = definition.iter().find(|member| member.name.is_some_and(|name| name == "value"));
    let pointee = value.and_then(|value| btf.type_by_id::<BtfType<'_>>(value.ty)?.next_type());
    if let Some(pointee) = pointee {
        describe(text, btf, pointee.type_id(), 0);
    }
}

fn describe(text: &mut String, btf: &Btf<'_>, id: TypeId, depth: u32) {
    let Some(ty) = btf.type_by_id::<BtfType<'_>>(id) else { return };
    let ty = if ty.kind() == BtfKind::Var { ty.next_type().unwrap_or(ty) } else { ty };
    let ty = ty.skip_mods_and_typedefs();
    if depth == MAX_DEPTH {
        return;
    }
    if let Ok(composite) = Composite::try_from(ty) {
        text.push('{');
        for member in composite.iter() {
            let name = member.name.unwrap_or_default().to_string_lossy();
            let _ = write!(text, "{name}@{:?}:", member.attr);
            describe(text, btf, member.ty, depth + 1);
        }
        text.push('}');
    } else if let Ok(array) = Array::try_from(ty) {
        let _ = write!(text, "[{}]", array.capacity());
        describe(text, btf, array.ty(), depth + 1);
    } else {
        let _ = write!(text, "{:?} {};", ty.kind(), ty.name().unwrap_or_default().to_string_lossy());
    }
}

/// std's hasher may change with the compiler; this number passes from one build to another.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_known_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
