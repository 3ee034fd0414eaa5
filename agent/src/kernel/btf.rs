//! Where the kernel's fields are: a small walk over `/sys/kernel/btf/vmlinux`. aya's own parser hides
//! member offsets and takes 30 MB; this one keeps the file's bytes and one word per type.

use std::{fs, path::Path};

use underpass_abi::{reason::code, shortcut::ShortcutOffsets, sock::Offsets};

use super::KernelError;

pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's types.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type; the first has id 1.
    types: Vec<u32>,
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const HEADER: usize = 24;
const MAGIC: u16 = 0xeb9f;

impl Btf {
    pub fn read(path: &Path) -> Result<Self, KernelError> {
        let data = fs::read(path).map_err(KernelError::io(code::NO_BTF, path.display()))?;
        Self::parse(data)
            .ok_or_else(|| KernelError::new(code::NO_BTF, format!("{}: malformed", path.display())))
    }

    pub fn parse(data: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(data.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let header = word(&data, 4)? as usize;
        let start = header + word(&data, 8)? as usize;
        let end = start.checked_add(word(&data, 12)? as usize)?;
        let strings = header + word(&data, 16)? as usize;
        let mut types = Vec::new();
        let mut at = start;
        while at < end {
            types.push(at as u32);
            at += 12 + trailer(word(&data, at + 4)?)?;
        }
        (at == end && strings <= data.len()).then_some(Self {
            data,
            strings,
            types,
        })
    }

    /// Byte offset of `member` (dotted; anonymous structs and unions are looked through) in `of`.
    pub fn offset(&self, of: &str, member: &str) -> Result<u32, KernelError> {
        let missing = || KernelError::new(code::KERNEL_TOO_OLD, format!("no field {of}.{member}"));
        let mut id = self.find(STRUCT, of).ok_or_else(missing)?;
        let mut bits = 0;
        for name in member.split('.') {
            let (offset, kind) = self.member(id, name, 0).ok_or_else(missing)?;
            bits += offset;
            id = kind;
        }
        if bits % 8 == 0 {
            Ok(bits / 8)
        } else {
            Err(missing())
        }
    }

    /// Id of a kernel function's type.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(FUNC, name)
    }

    /// Id of a structure.
    fn structure(&self, name: &str) -> Result<u32, KernelError> {
        let missing = || KernelError::new(code::KERNEL_TOO_OLD, format!("no type {name}"));
        self.find(STRUCT, name).ok_or_else(missing)
    }

    /// Id of a tracepoint's type.
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        self.find(TYPEDEF, &format!("btf_trace_{name}"))
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let at = self.types.iter().position(|at| {
            let at = *at as usize;
            word(&self.data, at + 4).is_some_and(|i| kind_of(i) == kind) && self.named(at, name)
        })?;
        Some(at as u32 + 1)
    }

    fn named(&self, at: usize, name: &str) -> bool {
        let Some(start) = word(&self.data, at).map(|s| self.strings + s as usize) else {
            return false;
        };
        let end = start + name.len();
        self.data.get(start..end) == Some(name.as_bytes()) && self.data.get(end) == Some(&0)
    }

    /// Bit offset and type of a member; `depth` bounds the way through anonymous members.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let at = *self.types.get(id.checked_sub(1)? as usize)? as usize;
        let info = word(&self.data, at + 4)?;
        if !matches!(kind_of(info), STRUCT | UNION) || depth > 8 {
            return None;
        }
        let bitfields = info >> 31 == 1;
        for n in 0..(info & 0xffff) as usize {
            let m = at + 12 + 12 * n;
            let (kind, raw) = (word(&self.data, m + 4)?, word(&self.data, m + 8)?);
            let offset = if bitfields { raw & 0xff_ffff } else { raw };
            if self.named(m, name) {
                return Some((offset, kind));
            }
            if self.named(m, "")
                && let Some((inner, kind)) = self.member(kind, name, depth + 1)
            {
                return Some((offset + inner, kind));
            }
        }
        None
    }
}

/// A BTF in which only the function `name` exists, under the kernel's own id: all that aya wants to
/// know when it loads an iterator, at a tenth of the memory of the real one.
pub fn only_function(id: u32, name: &str) -> Vec<u8> {
    only(FUNC, id, name)
}

/// The same with a tracepoint.
pub fn only_tracepoint(id: u32, name: &str) -> Vec<u8> {
    only(TYPEDEF, id, &format!("btf_trace_{name}"))
}

fn only(kind: u32, id: u32, name: &str) -> Vec<u8> {
    let types = 12 * id;
    let strings = [b"\0", name.as_bytes(), b"\0"].concat();
    let mut out = Vec::with_capacity(HEADER + types as usize + strings.len());
    out.extend(MAGIC.to_ne_bytes());
    out.extend([1, 0]);
    for w in [HEADER as u32, 0, types, types, strings.len() as u32] {
        out.extend(w.to_ne_bytes());
    }
    // Fillers are pointers to void; what is asked for refers to void too.
    for n in 1..=id {
        let (name, kind) = if n == id { (1_u32, kind) } else { (0, 2) };
        for w in [name, kind << 24, 0] {
            out.extend(w.to_ne_bytes());
        }
    }
    out.extend(strings);
    out
}

/// All offsets that the programs use.
pub fn offsets(btf: &Btf) -> Result<Offsets, KernelError> {
    let tcp = |m| btf.offset("tcp_sock", m);
    let sk = |m| btf.offset("sock", m);
    Ok(Offsets {
        tcp_write_seq: tcp("write_seq")?,
        tcp_copied_seq: tcp("copied_seq")?,
        tcp_rcv_nxt: tcp("rcv_nxt")?,
        tcp_snd_una: tcp("snd_una")?,
        tcp_bytes_acked: tcp("bytes_acked")?,
        tcp_bytes_received: tcp("bytes_received")?,
        tcp_bytes_sent: tcp("bytes_sent")?,
        tcp_bytes_retrans: tcp("bytes_retrans")?,
        tcp_segs_out: tcp("segs_out")?,
        tcp_total_retrans: tcp("total_retrans")?,
        tcp_srtt_us: tcp("srtt_us")?,
        sk_state: sk("__sk_common.skc_state")?,
        sk_err: sk("sk_err")?,
        sk_shutdown: sk("sk_shutdown")?,
        sk_flags: sk("__sk_common.skc_flags")?,
        sk_socket: sk("sk_socket")?,
        socket_file: btf.offset("socket", "file")?,
        sk_cgroup: sk("sk_cgrp_data.cgroup")?,
        cgroup_kn: btf.offset("cgroup", "kn")?,
        kn_id: btf.offset("kernfs_node", "id")?,
        cgroup_level: btf.offset("cgroup", "level")?,
        cgroup_ancestors: btf.offset("cgroup", "ancestors")?,
        tcp_cb_flags: tcp("bpf_sock_ops_cb_flags")?,
        task_cgroups: btf.offset("task_struct", "cgroups")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        css_set_cgroup: btf.offset("css_set", "dfl_cgrp")?,
        type_tcp_sock: btf.structure("tcp_sock")?,
        rdonly_cast: btf.function("bpf_rdonly_cast").unwrap_or(0),
    })
}

/// What the shortcut needs beyond [`offsets`].
pub fn shortcut_offsets(btf: &Btf) -> Result<ShortcutOffsets, KernelError> {
    let sk = |m| btf.offset("sock", m);
    // The context's `cb` words are read as TCP's.
    let cb = [
        btf.offset("sk_skb_cb", "data")?,
        btf.offset("tcp_skb_cb", "seq")?,
    ];
    if cb != [0, 0] {
        let text = format!("sk_skb_cb.data and tcp_skb_cb.seq are at {cb:?}");
        return Err(KernelError::new(code::KERNEL_TOO_OLD, text));
    }
    let regs = if cfg!(target_arch = "aarch64") {
        "syscallno"
    } else {
        "orig_ax"
    };
    Ok(ShortcutOffsets {
        known: 1,
        sk_cookie: sk("__sk_common.skc_cookie")?,
        sk_prot: sk("__sk_common.skc_prot")?,
        sk_user_data: sk("sk_user_data")?,
        sk_rmem_alloc: sk("sk_backlog.rmem_alloc")?,
        sk_rcvbuf: sk("sk_rcvbuf")?,
        sk_sndbuf: sk("sk_sndbuf")?,
        sk_rcvlowat: sk("sk_rcvlowat")?,
        icsk_ulp_ops: btf.offset("inet_connection_sock", "icsk_ulp_ops")?,
        tcp_is_mptcp: btf.offset("tcp_sock", "is_mptcp").unwrap_or(0),
        psock_msg_tot_len: btf.offset("sk_psock", "msg_tot_len")?,
        psock_skb_verdict: btf.offset("sk_psock", "progs.skb_verdict")?,
        psock_sk: btf.offset("sk_psock", "sk")?,
        proto_memory_allocated: btf.offset("proto", "memory_allocated")?,
        file_flags: btf.offset("file", "f_flags")?,
        task_mm: btf.offset("task_struct", "mm")?,
        mm_exe_file: btf.offset("mm_struct", "exe_file")?,
        // Both are `const` in newer kernels, which the dotted form does not look through.
        file_dentry: btf.offset("file", "f_path")? + btf.offset("path", "dentry")?,
        dentry_name: btf.offset("dentry", "d_name")? + btf.offset("qstr", "name")?,
        regs_syscall: btf.offset("pt_regs", regs)?,
        splice: libc::SYS_splice as u32,
        type_psock: btf.structure("sk_psock")?,
        socket_sk: btf.offset("socket", "sk")?,
        task_io_uring: btf.offset("task_struct", "io_uring").unwrap_or(0),
        psock_msgs: btf.offset("sk_psock", "ingress_msg")?,
        psock_last_msg: btf.offset("sk_psock", "ingress_msg.prev")?,
        psock_held: btf.offset("sk_psock", "ingress_skb.qlen")?,
        psock_last_held: btf.offset("sk_psock", "ingress_skb")?
            + btf.offset("sk_buff_head", "prev")?,
        msg_list: btf.offset("sk_msg", "list")?,
        msg_skb: btf.offset("sk_msg", "skb")?,
        skb_end_seq: btf.offset("sk_buff", "cb")? + btf.offset("tcp_skb_cb", "end_seq")?,
        type_sk_msg: btf.structure("sk_msg")?,
        type_sk_buff: btf.structure("sk_buff")?,
        tcp_last_oow: btf.offset("tcp_sock", "last_oow_ack_time")?,
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes behind the twelve that every type has.
fn trailer(info: u32) -> Option<usize> {
    let n = (info & 0xffff) as usize;
    Some(match kind_of(info) {
        1 | 14 | 17 => 4,
        3 => 12,
        STRUCT | UNION | 15 | 19 => 12 * n,
        6 | 13 => 8 * n,
        2 | 7..=FUNC | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { u32 a; union { struct inner { u64 x; u32 y; } in; }; u32 f:4, g:4; }
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0in\0inner\0x\0y\0f\0g\0";
        let s = |name: &str| {
            let needle = [b"\0", name.as_bytes(), b"\0"].concat();
            strings
                .windows(needle.len())
                .position(|w| w == needle)
                .unwrap() as u32
                + 1
        };
        let flagged = 1 << 31 | STRUCT << 24 | 4;
        let words = [
            vec![0, 1 << 24, 4, 32], // 1: int
            vec![
                s("inner"),
                STRUCT << 24 | 2,
                16,
                s("x"),
                1,
                0,
                s("y"),
                1,
                64,
            ], // 2
            vec![0, UNION << 24 | 1, 16, s("in"), 2, 0], // 3: anonymous union
            vec![s("outer"), flagged, 32, s("a"), 1, 0],
            vec![0, 3, 64, s("f"), 1, 4 << 24 | 192, s("g"), 1, 4 << 24 | 196],
        ];
        let types: Vec<u8> = words
            .concat()
            .iter()
            .flat_map(|w: &u32| w.to_ne_bytes())
            .collect();
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for w in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn walks_dotted_paths_through_anonymous_members() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "a").unwrap(), 0);
        assert_eq!(btf.offset("outer", "in.y").unwrap(), 16);
        assert_eq!(btf.offset("outer", "f").unwrap(), 24);
        // A field that does not start at a byte has no byte offset.
        assert!(btf.offset("outer", "g").is_err());
    }

    #[test]
    fn a_missing_field_is_named() {
        let btf = Btf::parse(sample()).unwrap();
        let error = btf.offset("outer", "in.z").unwrap_err();
        assert_eq!(error.code, code::KERNEL_TOO_OLD);
        assert!(error.detail.contains("outer.in.z"), "{error}");
    }

    #[test]
    fn truncated_input_is_refused() {
        let whole = sample();
        for len in 0..whole.len() - 30 {
            assert!(Btf::parse(whole[..len].to_vec()).is_none(), "{len}");
        }
    }

    #[test]
    fn a_kernel_without_types_is_named() {
        let error = Btf::read(Path::new("/nonexistent/btf")).err().unwrap();
        assert_eq!(error.code, code::NO_BTF);
        assert!(error.to_string().contains("UP0402 NO_BTF"), "{error}");
    }

    #[test]
    fn the_lone_function_keeps_its_id() {
        let btf = Btf::parse(only_function(1234, "bpf_iter_x")).unwrap();
        assert_eq!(btf.function("bpf_iter_x"), Some(1234));
    }

    #[test]
    fn this_kernel_has_every_field() {
        let btf = Btf::read(Path::new(VMLINUX)).unwrap();
        let o = offsets(&btf).unwrap();
        assert!(o.tcp_write_seq > o.sk_flags, "{o:?}");
        assert!(btf.function("bpf_iter_bpf_sk_storage_map").is_some());
        assert!(btf.tracepoint("tcp_rcv_space_adjust").is_some());
        let shortcut = shortcut_offsets(&btf).unwrap();
        assert!(shortcut.dentry_name > 0 && shortcut.psock_msg_tot_len > 0);
    }
}
