/* daemon_internal.h - the running control plane's state, and what its files ask of each other. All of it is the loop's:
 * only queries beside the loop (daemon_links.c) run elsewhere, on what their commands say is safe. For daemon*.c only. */
#pragma once
#include "common/notify.h"
#include "controlplane/admin/service.h"
#include <uv.h>

#define DECIDE_ARENA_MAX ((size_t)512 << 20)

struct daemon_options;
struct channel_server;
struct roles;

struct daemon {
    const struct daemon_options *options;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t tick, readers;
    uv_signal_t on_term, on_int;
    struct channel_server *fetch, *evidence, *admin;
    struct versions *versions;
    struct evidence_state *learned;
    struct nodes *nodes;
    struct journal *journal;
    struct publisher *publisher;
    struct pilot *pilot;
    struct recordstore *records; /* NULL: it cannot be used, and nodes keep theirs */
    struct simulations *simulations;
    struct service service;
    struct roles *roles;
    char *roles_path;
    uint64_t evidence_next, evidence_end; /* reserved sequences */
    uint64_t followed_generation, followed_epoch;
    int64_t decided_at_ms;
    uint64_t evidence_refused; /* reports that made no sense */
    bool decide_now;
    bool decide_failed;   /* the last time: the timer tries again, not every tick */
    bool prices_unstored; /* the last try failed */
    bool held_unstored;   /* likewise, of weights */
    bool pilot_lost;      /* what is stored could not be read the last time */
    bool stopping;
    int lock_fd;
    struct notify manager;
};

/* ---- daemon_evidence.c ---- */

/* Prices from the book that ships (without it, those of policies and people), then what was stored: prices and held
 * weights. Before anything is published. */
MUST_CHECK enum err daemon_evidence_load(struct daemon *d);
/* Follows the live head where it may have changed, decides, publishes, and stores what a restart must know. What fails
 * is logged and tried again. */
void daemon_decide(struct daemon *d, int64_t now_ms);
/* The pilot reads anew what is stored of the rollout; a failure is logged and kept in pilot_lost. */
void daemon_follow_pilot(struct daemon *d);
/* After a commit that nodes must hear of (user: the daemon): tables are published now, evidence at the next tick. */
void daemon_changed(void *user);

/* ---- daemon_links.c ---- */

/* Opens all three; what is open at a failure is closed by daemon_links_close. Failures are logged. */
MUST_CHECK enum err daemon_links_open(struct daemon *d);
void daemon_links_close(struct daemon *d);
/* What arrived since: woken by d->wake. */
void daemon_links_dispatch(const struct daemon *d);
/* For the publisher and the service (user: the daemon): answers a poll; what was refused on each link. */
void daemon_reply_fetch(void *user, void *call, struct span reply);
struct link_refusals daemon_link_refusals(void *user);
