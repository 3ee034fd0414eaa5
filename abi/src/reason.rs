//! The registry of codes: every refusal, empty cell and user-facing error has one, with its text and
//! its hint. `docs/reference/codes.md` is generated from it.

/// One entry of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `UP0101` is 101.
    pub number: u16,
    /// Stable, upper case with underscores; what `-o json` shows as a reason.
    pub name: &'static str,
    /// What happened.
    pub text: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

macro_rules! codes {
    ($($number:literal $name:ident $text:literal $hint:literal;)*) => {
        /// Numbers, for `SockState::reason` and the programs.
        pub mod code {
            $(#[doc = $text] pub const $name: u16 = $number;)*
        }
        /// The whole registry, by number.
        pub const CODES: &[Code] = &[
            $(Code { number: $number, name: stringify!($name), text: $text, hint: $hint },)*
        ];
    };
}

codes! {
    // 100-199: why a connection was refused, or ended
    101 POLICY_DENIED "an authorization policy does not allow this source"
        "`underpass explain SRC DST:PORT` shows the policy and the rule that is missing";
    102 DEFAULT_DENY "no policy selects the destination and the node's default is deny"
        "add an AuthorizationPolicy that allows the source, or start the agent with --default-policy allow";
    103 WOULD_DENY "allowed, but a policy in audit mode does not allow this source"
        "add the source to the policy before you set `audit: false`";
    104 NO_ENDPOINTS "the service has no ready endpoint"
        "look at the service's EndpointSlices: `underpass stat`, `underpass check -f DIR`";
    105 NO_SOCKET_STORAGE "the kernel had no memory for the connection's state"
        "raise net.core.optmem_max, or lower the application's socket options";
    106 SOCKET_CGROUP_DENIED "the socket was made in another workload, which may not open this connection"
        "allow both workloads, or let the process that connects make its own sockets";
    107 FLOW_TABLE_FULL "the table of connections under way is full, so the source could not be proven"
        "see `flows_full` in `underpass status`; too many connects hang in SYN_SENT";
    108 NOT_INVITED "a connection to the port of a worker that the mesh did not send there"
        "dial the service's or the workload's own port";
    109 DOOR_CLOSED "the port is served through the workload's worker, and none listens there"
        "is underpass-vend running, and does `underpass status` show the tenant's worker as ready?";
    110 PEER_REFUSED "the peer answered with a reset"
        "nothing listens on that port, or the peer's policy refused";
    111 TIMED_OUT "no answer to the SYN, or no acknowledgement in time"
        "check that the endpoint's host is up and reachable";
    112 UNREACHABLE "no route to the destination"
        "check routes and the endpoint's address";
    113 CONNECT_FAILED "the connect ended before it was established"
        "the application closed the socket, or the kernel refused it (local port, address)";
    120 CLOSED_NORMALLY "both ends closed with FIN" "";
    121 RESET_BY_PEER "the peer sent a reset" "the peer closed with unread data, crashed or refused";
    122 RESET_LOCALLY "this end sent a reset" "it closed with unread data or with SO_LINGER 0";
    123 POLICY_CHANGED "a policy change denies this connection, so it was reset"
        "--keep-denied-connections leaves established connections alone";
    124 STILL_CLOSING "the application has closed; TCP is still sending or waiting" "";
    125 SPLICED "a program spliced from a socket in the shortcut, which gives it nothing, so the connection was reset"
        "connect again: the program takes no part any more; `underpass.dev/shortcut: off` keeps a workload out from the start";
    126 UNREAD_LOST "a socket in the shortcut was closed with unread bytes, and the other end saw the end of the stream in place of a reset"
        "the agent was too late or away, or the other end had closed its side before";
    127 NOT_CUT_OFF "TCP brought bytes twice to a socket in the shortcut, and there was no memory to cut them off, so the connection was reset"
        "connect again; the node is short of memory";
    // 200-299: why a cell is empty or a layer was chosen
    201 NO_TRAFFIC "nothing was counted yet" "";
    202 NOT_OBSERVED "this layer does not see that value" "";
    203 BEFORE_MESH "the connection is older than the mesh on this node"
        "it is counted by sock_diag until it ends; new connections are full rows";
    204 NOT_ENROLLED "the object has no `underpass.dev/mesh: enabled` label, on itself or its namespace"
        "label the namespace or the object";
    205 NO_L7_NEEDED "no object asks for more than the kernel layer" "";
    206 NOT_A_WORKLOAD "the address belongs to nothing that the mesh knows" "";
    207 EVENTS_LOST "rows are missing because the event ring was full; totals are exact"
        "read more often, or raise the agent's CPU share";
    208 ADDRESS_DIALED "the application dialed an address that is no service's" "";
    209 NOTHING_TO_DECIDE "neither end is guarded by a policy" "";
    210 STILL_OPEN "the connection has not ended" "";
    211 ROUTE_ATTACHED "an HTTPRoute is attached to the service, so that a worker routes each request" "";
    212 OBSERVED "the annotation `underpass.dev/observe: http` asks for figures of requests" "";
    213 RATE_LIMIT "the annotation `underpass.dev/rate-limit` of a service that leads here bounds its requests" "";
    214 REQUEST_RULES "a rule of an authorization policy judges each request (`methods`, `paths`)" "";
    215 NO_DOOR "the layer Http is asked for, and no worker listens in the workload's network namespace (yet); rules about requests allow nothing meanwhile"
        "is underpass-vend running? `underpass status` shows it and its workers";
    216 SHARED_NAMESPACE_NO_HTTP "the layer Http is asked for, and the workload shares its network namespace; rules about requests allow nothing"
        "give the workload a network namespace of its own";
    217 NOT_HTTP_PORT "the layer Http is asked for, and the port is UDP or its `appProtocol` says that it speaks no plain HTTP"
        "correct the service port's `appProtocol`, or leave the port out of the route";
    218 ON_OTHER_NODE "the layer Http is asked for, and the workload's own node decides on that" "ask that node's agent";
    // 220-239: why bytes of a connection stayed on TCP (in order of `sock::counter::SHORTCUT_OFF`…)
    220 SHORTCUT_OFF "the shortcut is off for this connection"
        "--shortcut, and the annotation `underpass.dev/shortcut` of both ends, switch it on";
    221 SHORTCUT_NOT_LISTED "mode `auto`, and the program at an end is not on the tested list"
        "annotate the workload with `underpass.dev/shortcut: on` if it qualifies (docs/explanation/shortcut.md)";
    222 SHORTCUT_NOT_LOCAL "the other end is not on this node" "";
    223 SHORTCUT_LISTENER_UNKNOWN "the mesh did not see the destination begin to listen"
        "restart the server, if it is older than the mesh";
    224 SHORTCUT_BLOCKING "a socket of this connection is blocking" "use non-blocking sockets at both ends";
    225 SHORTCUT_SPLICES "the program at an end splices from sockets" "";
    226 SHORTCUT_SOCKET "a socket has an upper-layer protocol, Multipath TCP, MSG_ZEROCOPY, SO_RCVLOWAT or another user" "";
    227 SHORTCUT_LATE "bytes were under way before both ends could be paired (Fast Open)" "";
    228 SHORTCUT_FULL "a table of the shortcut is full" "see `SHORTCUT` and `PAIRS` in `underpass status`";
    229 SHORTCUT_UNPAIRED "the other end is not in the map" "";
    230 SHORTCUT_CLOSING "an end is shutting down or gone" "";
    231 SHORTCUT_UNREAD "earlier bytes went by TCP and are not read yet" "";
    232 SHORTCUT_QUEUE_FULL "the reader has as much unread as one socket may have" "the reader is slow";
    233 SHORTCUT_NODE_MEMORY "TCP holds as much memory as the node allows" "see net.ipv4.tcp_mem";
    234 SHORTCUT_NO_VERDICT "the reader's queue is not shared with TCP" "report it: the socket entered the map without its program";
    235 SHORTCUT_UNWATCHED "the watch for splice was not attached yet: the first listener that qualifies has only just appeared" "the next connection finds it";
    236 SHORTCUT_SMALL_WRITES "this connection, or one before it between these workloads, is a stream of small writes, which cost less by TCP"
        "larger writes take the shortcut; the agent's --shortcut-keep-out says how long it is remembered";
    237 SHORTCUT_OVERFLOWS "the reader of this connection, or of one before it between these workloads, falls behind, so that TCP carries most of it"
        "the agent's --shortcut-keep-out says how long it is remembered";
    238 SHORTCUT_SHORT "connections between these workloads end after a few messages, which cost less by TCP"
        "kept connections take the shortcut; the agent's --shortcut-keep-out says how long it is remembered";
    // 300-399: configuration
    301 NOT_IMPLEMENTED "this is not built yet" "remove it; the release notes list what is planned";
    302 BAD_YAML "the file is no valid YAML" "fix the named line; the last good plan stays in force";
    303 BAD_FIELD "a field has a wrong type, name or value" "fix the named field; the last good plan stays in force";
    304 UNKNOWN_KIND "the object's kind is none that the mesh reads" "remove it or move it out of the directory";
    305 DUPLICATE_OBJECT "the same object is in two files" "keep one; the first by file name counts";
    306 SELECTS_NOTHING "a policy selects no workload and no service" "check its labels and namespace";
    307 SERVICE_WITHOUT_ENDPOINTS "a service has no endpoint at all" "add an EndpointSlice with its `kubernetes.io/service-name` label";
    308 DUPLICATE_ADDRESS "two workloads claim one address" "addresses are unique, unless the workloads share the node's";
    309 LIMIT_EXCEEDED "the plan is larger than a map" "`underpass status` shows each map's fullness";
    310 DANGLING_REFERENCE "an object refers to one that does not exist" "create it or fix the name";
    311 TOO_LARGE "a file or directory is larger than the reader accepts" "split it; the limits are in docs/reference/limits.md";
    312 UNREADABLE "a file cannot be read" "check its path and its permissions";
    313 NEVER_MATCHES "a part of a route can never match a request" "see the message; the rest of the route is obeyed";
    // 400-499: the node
    401 NO_BPF_CAPABILITY "the process may not load BPF programs"
        "run as root or with CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE";
    402 NO_BTF "the kernel has no BTF (/sys/kernel/btf/vmlinux)" "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    403 NO_BPFFS "no bpffs is mounted and it could not be mounted"
        "mount -t bpf bpf /sys/fs/bpf, or give --pin-dir on a bpffs";
    404 NO_CGROUP2 "no cgroup2 hierarchy is mounted" "mount -t cgroup2 none /sys/fs/cgroup/unified, or give --cgroup-root";
    405 NODE_BUSY "another agent holds this node's pins" "stop it first; two agents would undo each other's plans";
    406 KERNEL_TOO_OLD "the kernel lacks a feature that the mesh needs" "6.1 is the minimum: `underpass check` names what is missing";
    407 PROGRAM_REFUSED "the verifier refused a program" "report it with the attached log";
    408 PINS_INCOMPATIBLE "the pinned maps were made by another version" "run `underpass-agent --uninstall`, then start again";
    409 NO_OBJECT "the agent was built without its BPF object" "build with `cargo xtask build-ebpf` first";
    410 API_UNREACHABLE "the agent's socket does not answer" "is underpass-agent running? `--api PATH` names its socket";
    411 API_FORBIDDEN "the agent does not accept this user" "run as root or as the agent's user";
    412 NO_SOCK_DESTROY "the kernel cannot end connections (CONFIG_INET_DIAG_DESTROY)"
        "a policy change then holds for new connections only";
    413 FEATURE_OFF "a kernel feature is missing, so a part of the mesh is off" "the same line of `underpass check` names it";
    414 NETNS_UNREACHABLE "a network namespace could not be entered" "is its path right and still there?";
    415 CGROUP_MISSING "a workload's cgroup does not exist (yet)" "it joins when the cgroup appears";
    416 UNIT_MISSING "a workload's systemd unit has no cgroup (yet)" "it joins when the unit starts";
    417 CONFLICT "another program works on the same hook" "see docs/how-to/coexist.md";
    418 STATE_DIR "the state directory cannot be used" "give --state-dir a writable directory";
    419 METRICS_ADDRESS "the metrics address cannot be bound" "choose another with --metrics ADDR:PORT";
    420 MORE_PROBLEMS "there are more problems than are shown" "mend those that are shown first; `underpass check -f DIR` lists all of a directory";
    421 NOT_TRIED "what the kernel takes was not tried"
        "mend what other lines name; run as root, with underpass-agent beside `underpass` or named by --agent PATH";
    422 SHORTCUT_SELF_TEST "this kernel does not do what the shortcut needs, so it is off" "the message names the test that failed; traffic goes by TCP";
    // 430-449: the vendor and its workers
    430 NOT_YOUR_WORKLOAD "a worker asked for a workload that is none of its tenant's, and got nothing"
        "its own agent names no such workload: the worker is broken, or broken into; kill it and look at what it did";
    431 VEND_PROTOCOL "a worker or a client sent what the vendor's protocol does not have" "are both of one version?";
    432 VEND_FORBIDDEN "the vendor's control socket takes root only" "run as root";
    433 SANDBOX_INCOMPLETE "a restriction of a worker is not in force on this kernel"
        "enable it (`lsm=…,landlock`), or start underpass-vend with --allow-missing";
    434 WORKER_CRASHED "a worker ended without being asked to; it is started again, with longer waits if it goes on"
        "the journal has its last words; connections through it were reset";
    435 WORKER_NOT_STARTED "a worker could not be started" "is --worker the path of underpass-proxy, and may every user run it?";
    436 WORKER_SILENT "a worker did not do in time what it has to, and was ended" "is the node short of CPU? --cpu-max bounds the tenant";
    437 SHARED_WORKER "one worker serves all tenants (--shared): nothing but its own code keeps their traffic apart"
        "start underpass-vend without --shared on nodes that have the memory";
    438 LISTENER_REFUSED "a listener could not be made in a workload's namespace" "does the application have that port?";
    439 NO_SOCKET "sockets could not be made, or the worker did not fetch them" "--memory-max bounds a tenant's sockets too";
    440 BOUND_NOT_SET "a cgroup bound could not be set, so nothing was started in it"
        "`Delegate=yes` in the unit; or --allow-missing where the kernel has no such controller";
    441 VEND_LIMIT "the vendor holds as many of these as it may" "the limits are in docs/reference/limits.md";
    442 CHILD_ENDED "the vendor's child of a tenant ended; it is started again and the tenant's worker with it" "the journal has its last words";
    443 VENDOR_BUSY "another vendor holds the state directory" "stop it first, or give --state another directory";
    444 VENDOR_UNREACHABLE "the vendor does not answer on its control socket" "is underpass-vend running? --control PATH names its socket";
    445 VENDOR_CAPABILITY "the vendor lacks a capability" "run it as root, or with what docs/reference/capabilities.md lists";
    446 STAGE_FAILED "a new process of the vendor could not give up what it must, so it ended" "the message names the step; is the kernel older than 6.1, or the vendor without a capability?";
    447 SNAPSHOT_FORMAT "a worker was given a snapshot of another format, or an older one than it has; it keeps the one it has"
        "are agent and worker of one version?";
    448 SNAPSHOT_UNREADABLE "what a worker was given as a snapshot is none: not sealed, too large, or malformed; it keeps the one it has"
        "are agent and worker of one version?";
    458 NAMESAKE "another workload of that name is with the vendor, in another network namespace" "the agent lets it go first; by hand: `underpass-vend ctl gone NAME`";
    // 500-599: command line
    501 BAD_FILTER "a filter is not understood" "see --help";
    502 NOT_FOUND "no such object" "`underpass status -o wide` lists the workloads, `underpass stat` the services";
    503 BAD_ARGUMENT "an argument is not understood" "see --help";
    510 NO_PROGRAM "a program to compare with is not here" "`cargo xtask setup` fetches it; without a network it cannot be had";
    511 NOT_MEASURED "a row of a benchmark could not be measured" "the message says why; on a busy machine take more rounds, or a quieter one";
    512 OWN_NAMESPACE "HTTP workers serve workloads with a network namespace of their own" "`--wire veth` gives client and server one each";
    513 SERVICE_UNREACHABLE "a client of `underpass bench` does not reach the service" "the message says what may be missing; --shared does without namespaces of their own";
    514 CLIENT_REFUSED "a policy refuses a client of `underpass bench`" "`underpass explain` shows which; --as NAMESPACE/ACCOUNT gives the client in the mesh another identity";
    515 NO_SUCCESS "the service's answer to a client of `underpass bench` is no success" "see `underpass bench --help`";
    // 600-699: why a request was refused (the rules of `l7/` and of `proxy/`)
    601 HTTP_VERSION "505: the request's HTTP version is none of 1.0, 1.1 and 2" "";
    602 BAD_METHOD "400: the method is no token" "";
    603 METHOD_LENGTH "501: the method is longer than any that is known" "";
    604 TARGET_LENGTH "414: the request target is longer than the limit" "send long values in the body";
    605 BAD_TARGET "400: the request target has none of the forms that its method may have" "";
    606 BAD_LINE "400: the first line has not its three parts, or a line of the head does not end with CRLF" "";
    610 PATH_CONTROL "400: the target holds a space or a control character, plain or escaped" "";
    611 PATH_NON_ASCII "400: the target holds bytes beyond ASCII" "percent-encode them";
    612 PATH_FRAGMENT "400: the target holds `#`, which is the client's alone" "";
    613 PATH_BACKSLASH "400: the path holds a backslash, plain or escaped, which some servers take for a slash" "";
    614 PATH_ENCODED_SLASH "400: the path holds an escaped slash, which servers read in different ways" "send such values in the query";
    615 PATH_ESCAPE "400: a percent sign is not followed by two hexadecimal digits" "write it as %25";
    616 PATH_DOUBLE_ESCAPE "400: the path holds an escape that is itself escaped and would be a dot, a slash, a percent sign or a control character" "";
    617 PATH_OVERLONG "400: the path holds an overlong UTF-8 sequence, which some servers take for ASCII" "";
    618 PATH_ABOVE_ROOT "400: `..` leads above the root" "";
    619 PATH_DOT_PARAMETER "400: a dot segment has a parameter, as in `/..;a/`, which some servers take for a dot segment" "";
    620 HEADER_BYTES "431: the header fields are larger than the limit" "";
    621 HEADER_COUNT "431: there are more header fields than the limit" "";
    622 HEADER_NAME "400: a header field's name is no token (a space before the colon, a folded line)" "";
    623 HEADER_VALUE "400: a header field's value holds a control character" "";
    624 HEADER_LOOKALIKE "400: a header field is named as one that frames the message, but for underscores" "";
    625 HEADER_OF_CONNECTION "400: HTTP/2 knows no such header field" "";
    626 CONNECTION_OPTION "400: Connection names a field that frames or routes the message, which would go with it" "";
    630 HOST_MISSING "400: the request names no host" "";
    631 HOST_TWICE "400: the request has several Host fields" "";
    632 BAD_HOST "400: the host is no name or address with an optional port" "";
    633 HOST_CONFLICT "400: the Host field names another host than the target or `:authority`" "";
    640 BAD_LENGTH "400: Content-Length is no decimal number" "";
    641 LENGTH_TWICE "400: the message has several lengths, equal or not" "";
    642 LENGTH_AND_CODING "400: the message has both Content-Length and Transfer-Encoding" "";
    643 CHUNKED_NOT_LAST "400: Transfer-Encoding does not end with one `chunked`" "";
    644 TRANSFER_CODING "501: the message has a transfer coding other than `chunked`" "compress by Content-Encoding";
    645 CODING_BEFORE_1_1 "400: a message of HTTP/1.0 has Transfer-Encoding" "";
    646 BODY_LENGTH "413: the body is larger than the limit" "";
    647 EXPECTATION "417: Expect holds something other than `100-continue`" "";
    648 CONNECT_BODY "400: CONNECT has a body" "";
    649 BAD_CHUNK "400: a chunk's size is no hexadecimal number below 2^63, its extension is malformed, or its CRLF is missing" "";
    650 CHUNK_EXTENSIONS "400: chunk extensions are larger than the limit" "";
    651 TRAILERS "400: trailer fields are larger than the limit, malformed, or frame or route the message" "";
    660 NO_ROUTE "404: no rule of the service's routes matches the request" "add a rule without matches for everything else";
    661 NO_BACKEND "500: the rule that matches has no backend with a weight" "give one of its backendRefs a weight";
    662 HEAD_TIMEOUT "408: the head of the request did not arrive in time" "";
    663 BODY_TIMEOUT "408: no more of the request's body arrived in time" "";
    664 REQUEST_TIMEOUT "504: there was no answer within the request timeout of the route" "";
    665 NO_CONNECTION "503: no connection to the endpoint could be made" "see whether it listens, and whether a policy allows it";
    666 ENDPOINT_CLOSED "502: the endpoint closed the connection before it answered" "";
    667 BAD_STATUS_LINE "502: what the endpoint sent is no response of HTTP/1" "";
    668 INTERIM_COUNT "502: the endpoint sent more interim responses (1xx) than the limit" "";
    669 UNASKED_UPGRADE "502: the endpoint switched protocols and was not asked to" "";
    670 BAD_RESPONSE "502: the endpoint answered by what is no HTTP/2" "";
    671 NOT_HTTP2 "502: the endpoint does not speak HTTP/2" "set the port's appProtocol: `http` for HTTP/1, `kubernetes.io/h2c` for HTTP/2";
    680 NO_SNAPSHOT "503: the worker has not been told of the workload that asks" "is underpass-agent running? `underpass status` shows what the worker has";
    681 UNKNOWN_DESTINATION "503: the worker has not been told of the address that was dialed, also a second later" "`underpass status` shows which snapshot the worker has";
    682 NO_WORKER_SOCKET "503: the vendor gave the worker no socket for a new connection" "`underpass-vend ctl status` has the reason; --memory-max bounds a tenant's sockets too";
    690 RATE_LIMITED "429: the port has had as many requests as its limit allows" "`underpass.dev/rate-limit` of the service has the limit; Retry-After says when there is room";
    691 NOT_ALLOWED "403: no rule of the port's AuthorizationPolicies allows this method and path to this source"
        "add a rule with `methods` and `paths` that hold for it";
    692 PEER_UNKNOWN "403: a rule would allow this method and path to some sources, and the worker was not told who asks"
        "the caller is of this node and its connect was not seen, or it has just been enrolled; a sidecar is never told: there only rules for every source hold";
    693 NOT_HTTP "400: the connection does not begin as HTTP does, and the port's rules are about requests"
        "remove the rules, or declare another protocol by the Service's appProtocol";
}

impl Code {
    /// Looks an entry up by its number.
    pub fn find(number: u16) -> Option<&'static Code> {
        CODES.iter().find(|c| c.number == number)
    }
}

/// The stable name of a reason code, empty for 0 or an unknown number.
pub fn name(number: u16) -> &'static str {
    Code::find(number).map_or("", |c| c.name)
}

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn numbers_and_names_are_unique_and_ascend() {
        for pair in CODES.windows(2) {
            assert!(
                pair[0].number < pair[1].number,
                "{} before {}",
                pair[0].name,
                pair[1].name
            );
            assert!(CODES.iter().filter(|c| c.name == pair[0].name).count() == 1);
        }
    }
}
