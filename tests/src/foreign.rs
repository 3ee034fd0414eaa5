//! A foreign sock_ops program that behaves badly: it sets the callback flags of every socket to
//! nothing, as programs do that call `bpf_sock_ops_cb_flags_set` without OR. Its ELF object is put
//! together here, so that the tests need no compiler for BPF.

use std::{fs::File, path::Path};

use aya::programs::{CgroupAttachMode, SockOps};

use crate::{Failure, Result};

/// Attached while it lives.
pub struct Foreign {
    _programs: aya::Ebpf,
}

impl Foreign {
    /// Attaches to a cgroup beside whatever is there, behind it (links always allow multiple).
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let mut programs = aya::Ebpf::load(&object()).map_err(Failure::at("foreign object"))?;
        let program = programs
            .program_mut("clear")
            .ok_or_else(|| Failure::new("no program `clear`"))?;
        let program: &mut SockOps = program.try_into().map_err(Failure::at("clear"))?;
        program.load().map_err(Failure::at("foreign sock_ops"))?;
        let dir = File::open(cgroup).map_err(Failure::at(cgroup.display()))?;
        program
            .attach(dir, CgroupAttachMode::Single)
            .map_err(Failure::at("foreign sock_ops"))?;
        Ok(Self {
            _programs: programs,
        })
    }
}

/// `bpf_sock_ops_cb_flags_set(ctx, 0); return 1;`
const CODE: [[u8; 8]; 4] = [
    [0xb7, 0x02, 0, 0, 0, 0, 0, 0],  // r2 = 0
    [0x85, 0x00, 0, 0, 59, 0, 0, 0], // call 59
    [0xb7, 0x00, 0, 0, 1, 0, 0, 0],  // r0 = 1
    [0x95, 0x00, 0, 0, 0, 0, 0, 0],  // exit
];

const NAMES: &[u8] = b"\0sockops\0license\0.symtab\0.strtab\0clear\0";

fn offset_of(name: &str) -> u32 {
    let at = NAMES.windows(name.len()).position(|w| w == name.as_bytes());
    at.expect("every name is in NAMES") as u32
}

/// (name, type, flags, content, link, info, alignment, entry size)
type Section<'a> = (&'a str, u32, u64, &'a [u8], u32, u32, u64, u64);

/// A relocatable ELF64 of machine BPF with one program.
fn object() -> Vec<u8> {
    const HEADER: u64 = 64;
    let code = CODE.concat();
    // The empty symbol, then a global function at the start of section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(offset_of("clear").to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend((code.len() as u64).to_le_bytes());
    let sections: [Section; 4] = [
        ("sockops", 1, 6, &code, 0, 0, 8, 0),
        ("license", 1, 3, b"GPL\0", 0, 0, 1, 0),
        (".symtab", 2, 0, &symbols, 4, 1, 8, 24),
        (".strtab", 3, 0, NAMES, 0, 0, 1, 0),
    ];
    let mut body = Vec::new();
    let mut headers = vec![0; 64];
    for (name, kind, flags, content, link, info, alignment, entry) in sections {
        while body.len() % 8 != 0 {
            body.push(0);
        }
        headers.extend(offset_of(name).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [flags, 0, HEADER + body.len() as u64, content.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(info.to_le_bytes());
        headers.extend(alignment.to_le_bytes());
        headers.extend(entry.to_le_bytes());
        body.extend(content);
    }
    while body.len() % 8 != 0 {
        body.push(0);
    }
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([1, 0, 247, 0, 1, 0, 0, 0]); // relocatable, BPF, version 1
    for word in [0, 0, HEADER + body.len() as u64] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 5, 0, 4, 0]); // sizes; 5 sections, names in 4
    elf.extend(body);
    elf.extend(headers);
    elf
}
