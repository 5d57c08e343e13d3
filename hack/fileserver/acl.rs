// Copyright 2026 The containerd-shim-msb Authors. All rights reserved.
// SPDX-License-Identifier: Apache-2.0

//! The mode that a guest is to judge an object of the host by, when that has an access control
//! list. This module is part of neither libkrun nor virtiofsd: msb's builds add it.

use std::convert::TryInto;
use std::ffi::CStr;
use std::io;

/// Where the kernel has the list (xattr(7)).
const NAME: &[u8] = b"system.posix_acl_access\0";

/// The most that the kernel returns of one attribute (XATTR_SIZE_MAX).
const MOST: usize = 1 << 16;

/// The bits of group and others.
const OF_OTHERS: u32 = 0o077;

/// Returns the mode of an object that the guest is to judge by. `read` reads an attribute of the
/// object as getxattr(2) does.
///
/// With a list, the group's bits of a mode are those of its mask (acl(5)), and who has an entry of
/// its own is judged by that. The guest's kernel knows no lists in mounts that a server announces:
/// it judges whoever is not the owner by the bits of group and others. They are narrowed to what the
/// list gives to everybody who may be meant by them.
pub fn guest_mode(mode: u32, read: impl Fn(&CStr, &mut [u8]) -> io::Result<usize>) -> u32 {
    if mode & OF_OTHERS == 0 || mode & libc::S_IFMT == libc::S_IFLNK {
        return mode;
    }
    let name = CStr::from_bytes_with_nul(NAME).expect("it ends with a zero");
    let mut small = [0u8; 512];
    let mut large = Vec::new();
    let list = match read(name, &mut small) {
        Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {
            large.resize(MOST, 0);
            read(name, &mut large).map(|len| &large[..len])
        }
        other => other.map(|len| &small[..len]),
    };
    match list {
        Ok(list) => narrowed(mode, list).unwrap_or(mode & !OF_OTHERS),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENODATA) | Some(libc::EOPNOTSUPP) => mode,
            _ => mode & !OF_OTHERS,
        },
    }
}

/// Narrows a mode by a list in the kernel's form (linux/posix_acl_xattr.h). Returns nothing if it
/// is no such list.
fn narrowed(mode: u32, list: &[u8]) -> Option<u32> {
    const VERSION: u32 = 2;
    const HEADER: usize = 4;
    const ENTRY: usize = 8;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const ALL: u32 = 0o7;

    let header: [u8; HEADER] = list.get(..HEADER)?.try_into().ok()?;
    let entries = &list[HEADER..];
    if u32::from_le_bytes(header) != VERSION || entries.len() % ENTRY != 0 {
        return None;
    }
    let (mut group, mut mask) = (mode >> 3 & ALL, ALL);
    // What all users, and what all groups, that have an entry of their own are given by it.
    let (mut users, mut groups): (Option<u32>, Option<u32>) = (None, None);
    for entry in entries.chunks_exact(ENTRY) {
        let rights = u32::from(u16::from_le_bytes([entry[2], entry[3]])) & ALL;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => users = Some(users.unwrap_or(ALL) & rights),
            GROUP_OBJ => group = rights,
            GROUP => groups = Some(groups.unwrap_or(ALL) & rights),
            MASK => mask = rights,
            _ => {}
        }
    }
    let users = users.map_or(ALL, |rights| rights & mask);
    let groups = groups.map_or(ALL, |rights| rights & mask);
    let group = group & mask & users;
    let others = mode & ALL & users & groups;
    Some(mode & !OF_OTHERS | group << 3 | others)
}
