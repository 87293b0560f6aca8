/* daemon.h - the running control plane: one libuv loop, the three links, the timers, and the rooms they feed. */
#pragma once
#include "common/base.h"
#include "common/err.h"

struct daemon_options {
    const char *home;          /* absolute */
    const char *fetch_address; /* NULL: the socket in the home */
    const char *evidence_address;
    const char *admin_address;
    const char *admin_group;       /* its members may connect to the admin socket; NULL: only its owner and root */
    const char *prices_file;       /* the book that ships with Fairlead; NULL: looked for beside the program */
    uint32_t decide_every_ms;      /* evidence is recomputed and published at least this often */
    uint64_t records_bytes;        /* what the records of all nodes may take; the oldest go */
    uint32_t evidence_lifetime_ms; /* nodes fall back to the policy when it was not renewed for so long */
};
/* Runs until SIGTERM or SIGINT. Returns the exit status: 0 stopped, 1 could not start or go on, 2 somebody else runs on
 * this home. */
int daemon_run(const struct daemon_options *options);

/* Path of the shipped price book: prices_file, the installed one, or the source tree's; malloc'd, NULL when none is
 * found. */
char *daemon_book_path(const char *prices_file);
