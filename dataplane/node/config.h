/* config.h - a node's own configuration (node.yaml) and limits, read by the master and by each worker. One declarative table of settings: name, kind,
 * default, least, most, and the reason for each limit; --help-config prints it. Unknown or duplicate fields are errors with file:line:column.
 *
 *   schema: fairlead/1
 *   kind: node
 *   name: my-node                      # default: host name
 *   control: ipc:///.../fetch.ipc      # default: in the home (proto/home.h)
 *   evidence: ipc:///.../evidence.ipc  # default: in the home
 *   listen: 127.0.0.1:4000             # or a list, of such and of maps:
 *     - {address: 0.0.0.0:8443, tls: {certificate: FILE, key: FILE, client_ca: FILE, client_certificates: optional,
 *        teams: {ci.example.com: build}}, http2: true, proxy_protocol: [10.0.0.0/8]}
 *     - {address: "unix:/run/fairlead/api.sock", mode: "0660"}
 *     - systemd:api                    # a socket that systemd passed (FileDescriptorName=api; "systemd:": the only one)
 *   operations: 127.0.0.1:4001
 *   workers: 2                         # default: one per core
 *   records: {ship: 100%}              # 0: none go to the control plane
 *   limits: {head_bytes: 32KiB, body_bytes: 32MiB, head_time: 10s, idle: 75s, connections: 10000, ...}
 *   credentials: {openai-a: {from: env:OPENAI_API_KEY, hosts: [api.openai.com]}} */
#pragma once
#include "common/base.h"
#include "common/buf.h"
#include "common/credentials.h"
#include "common/err.h"
#include "dataplane/node/address.h"
#include "proto/limits.h"

/* Defaults and reasons: config.c's table. */
struct node_limits {
    uint64_t head_bytes;           /* 32 KiB -> 431 */
    uint64_t headers;              /* 100 -> 431 */
    uint64_t head_time_ms;         /* 10 s in all, not idle -> 408 */
    uint64_t body_bytes;           /* 32 MiB -> 413 */
    uint64_t body_time_ms;         /* 60 s for each 64 KiB of a body -> 408 */
    uint64_t idle_ms;              /* keep-alive, 75 s */
    uint64_t connections;          /* per worker */
    uint64_t buffered_bytes;       /* per worker: over it 503 with Retry-After */
    uint64_t write_queue_bytes;    /* 64 KiB per client, then upstream is paused */
    uint64_t write_stall_ms;       /* a client that takes nothing for this long is cut */
    uint64_t upstream_connections; /* per worker */
    uint64_t upstream_idle;        /* per worker, kept for reuse */
    uint64_t drain_ms;             /* how long streams may go on when a worker drains */
    uint64_t drain_first_ms;       /* then: for the first request of a connection that has sent none yet */
    uint64_t drain_idle_ms;        /* then: for a request on its way over a connection in use */
    uint64_t record_segment_bytes; /* rotation of records */
    uint64_t record_segments;
    uint64_t http2_streams; /* at once, per connection: 100 */
    uint64_t watchdog_ms;   /* a worker whose loop does not turn for so long is replaced; 0: never */
};
enum client_certificates { CLIENT_CERTIFICATES_NONE, CLIENT_CERTIFICATES_OPTIONAL, CLIENT_CERTIFICATES_REQUIRED };
struct certificate_team {
    char *name; /* a DNS name, e-mail address or URI of the certificate's alternative names, else its common name */
    char *team; /* requests without a key are this team's */
};
enum listener_kind { LISTENER_TCP, LISTENER_UNIX, LISTENER_SYSTEMD };
struct listener_config {
    char *address;           /* ADDR:PORT, unix:PATH or systemd:NAME */
    unsigned mode;           /* of a Unix socket's file */
    bool http2;              /* by ALPN, and by its preface in plaintext */
    char *certificate, *key; /* PEM files; NULL: plaintext. Read again at reload */
    char *client_ca;         /* PEM file; NULL: no client certificates */
    enum client_certificates client_certificates;
    struct certificate_team *teams;
    unsigned team_count;
    struct network *proxies; /* connections from these begin with a PROXY v2 header; no others may */
    unsigned proxy_count;
};
struct node_config {
    char *home; /* absolute */
    char *name;
    char *control;  /* channel address of the fetch link */
    char *evidence; /* of the evidence link */
    struct listener_config listeners[NODE_LISTENERS_MAX];
    unsigned listener_count;
    char *operations;
    char *ca_file;         /* NULL: the system's */
    char *feedback_secret; /* "env:NAME" or "file:PATH"; NULL: the home's (node/feedback_secret.h) */
    char *resolvers;       /* "127.0.0.1:53,[::1]:53": asked for names instead of the system's; NULL */
    unsigned workers;
    uint64_t records_ship_ppm; /* share of units whose records go to the control plane */
    struct node_limits limits;
    struct credentials *credentials;
    char *source;          /* file it came from, or NULL: defaults */
    uint64_t written;      /* bit per setting of config.c's table: the file names it */
    const char *outranked; /* a setting of the file that a flag replaced ("listen"), or NULL; static */
};
/* file NULL: home/node.yaml when it exists, else defaults. home NULL: file_default_home(). On error *ret_message (malloc'd) holds file:line:column: text. */
MUST_CHECK enum err node_config_load(const char *home, const char *file, struct node_config *ret, char **ret_message);
/* The same, read from a copy of that file: ->source and messages go on to name the file itself. copy NULL: the file. */
MUST_CHECK enum err node_config_load_copy(const char *home, const char *file, const char *copy, struct node_config *ret,
                                          char **ret_message);
/* A flag overrides the file: the value is judged like the file's. ERR_INVALID (and *ret_message, malloc'd), ERR_NOMEM. field is one of the table's;
 * "listen" replaces all listeners by one plain one. */
MUST_CHECK enum err node_config_set(struct node_config *config, const char *field, const char *value,
                                    char **ret_message);
/* Replaces all listeners by plain ones. Errors as above. */
MUST_CHECK enum err node_config_listen(struct node_config *config, const char *const *addresses, unsigned count,
                                       char **ret_message);
void node_config_release(struct node_config *config);      /* wipes credentials */
MUST_CHECK enum err node_config_describe(struct buf *out); /* the table, for --help-config */
/* Paths in the home, malloc'd: "db/node", "run/board", "run/node.sock", "records". Board may be in /dev/shm when run/ is not tmpfs. */
char *node_config_path(const struct node_config *config, const char *relative);
char *node_config_board_path(const struct node_config *config);
/* *ret_rest: ADDR:PORT, PATH or NAME (""), borrowed from the address. */
enum listener_kind listener_kind(const struct listener_config *listener, const char **ret_rest);
