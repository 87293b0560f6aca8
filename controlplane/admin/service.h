/* service.h - the admin link's one table of commands, with the role each needs; every answer is one JSON value.
 *
 * A mutating command runs in one write transaction together with its audit line and its stored answer: the same request
 * id is executed once, and a crash leaves all or nothing. dry_run runs the command and drops the transaction. */
#pragma once
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"
#include "controlplane/evidence/evidence.h"
#include "controlplane/evidence/recordstore.h"
#include "controlplane/journal/journal.h"
#include "controlplane/pilot/pilot.h"
#include "controlplane/publish/nodes.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/publish/versions.h"
#include "proto/links.h"

enum role { ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };
const char *role_name(enum role role); /* "viewer" */

/* Who asks, as the link knows it: what a request says of its user is only a claim. */
#define CALLER_UID_UNKNOWN UINT32_MAX
struct caller {
    enum role role;
    uint32_t uid;     /* of a peer on this machine; CALLER_UID_UNKNOWN otherwise */
    struct span name; /* the system's name for it; "": unknown, and the claim stands */
};

/* Messages on a link that made no sense since the start: frames that are not ours, and what could not be decoded. */
struct link_refusals {
    uint64_t fetch, evidence, admin;
};

struct simulations;
struct service {
    struct versions *versions;
    struct evidence_state *evidence;
    struct nodes *nodes;
    struct publisher *publisher;
    struct pilot *pilot;
    const struct journal *journal;     /* what happened lately; NULL: nobody keeps it */
    const struct recordstore *records; /* NULL: none is kept */
    struct simulations *simulations;   /* NULL: none can run */
    const struct roles *roles;         /* NULL: nobody keeps any */
    int64_t started_at_ms;
    const char *home;
    void (*changed)(void *user); /* after a commit that nodes must hear of: head, directory or evidence */
    void *changed_user;
    struct link_refusals (*link_refusals)(void *user); /* user: changed_user; NULL: nobody counts */
    uint64_t refused;                                  /* admin requests that could not be decoded */
};

/* What a command works with. */
struct command_call {
    struct service *service;
    const struct admin_request *request; /* its user is the caller's name where that is known */
    const struct caller *caller;
    struct span claimed; /* what the request said of its user */
    struct arena *arena;
    int64_t now_ms;
    struct json_writer *result; /* exactly one JSON value is written on ADMIN_OK */
    char message[1024];         /* one line for people, on success too ("v4 is live") */
    bool republish;             /* set by the command: call `changed` after the commit */
    bool evidence_changed;      /* set by the command: store evidence_export in the same transaction */
    struct span audit_detail;   /* JSON object, optional */
};
struct command {
    const char *name; /* "policy.push" */
    enum role role;
    bool mutates;
    bool changes_evidence; /* in memory, at once: restored from the store when nothing comes of it */
    enum admin_status (*run)(struct command_call *call);
};
extern const struct command service_commands[];
extern const unsigned service_command_count;
/* Queries that take long and read files alone: without a transaction, and nothing of the service but what never changes. */
extern const struct command service_commands_apart[];
extern const unsigned service_command_apart_count;

/* Text of an argument; `otherwise` when absent. */
struct span command_arg(const struct command_call *call, const char *name, struct span otherwise);
bool command_flag(const struct command_call *call, const char *name); /* "true" or "1" */
enum admin_status command_fail(struct command_call *call, enum admin_status status, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* True: service_execute may run this request on another thread. */
bool service_is_apart(struct span request);
/* Executes one encoded admin_request and appends the encoded admin_reply. Never fails: what goes wrong is in the reply.
 * Commands see the caller's name as the request's user where it is known; the audit line has name, uid, and the claim
 * where it is another. */
void service_execute(struct service *service, struct span request, const struct caller *caller, int64_t now_ms,
                     struct buf *reply);
/* Answers somebody who has no role at all. */
void service_deny(const struct service *service, const struct caller *caller, struct buf *reply);
