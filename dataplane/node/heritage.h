/* heritage.h - what a master that replaces itself leaves to the next one: its sockets, its workers, what it was asked.
 *
 * In the same process it is the struct; over an execve it is lines in a memory file whose descriptor HERITAGE_ENV names;
 * the descriptors in it stay open over that, and only over that. */
#pragma once
#include "common/buf.h"
#include "common/err.h"
#include "common/span.h"
#include "dataplane/node/listening.h"
#include "dataplane/node/passed.h"
#include "dataplane/node/process.h"

#define HERITAGE_FORMAT    1u /* a program that does not read this one cannot take over */
#define HERITAGE_ENV       "FAIRLEAD_HERITAGE"
#define HERITAGE_BYTES_MAX (256u << 10)

struct heritage_process {
    uint64_t pid, started_ms, kill_ms;
    unsigned slot, region, generation;
    enum process_state state;
    bool adopted, in_slot;
};
/* The last change of the node that is over (changes.h), for people. */
struct heritage_change {
    int64_t at_ms; /* its end, wall clock; 0: there was none */
    uint64_t took_ms;
    bool upgrade, failed;
    char why[256]; /* failed; one line */
};
struct heritage {
    unsigned layout; /* of the board that the regions are on */
    int lock_fd, hub_fd, operations_fd;
    char operations[ADDRESS_TEXT_BYTES];
    struct listening listening;
    struct passed passed; /* borrowed from who keeps it; names are malloc'd by heritage_read */
    struct heritage_process processes[NODE_REGIONS_MAX];
    unsigned process_count;
    unsigned generation;
    uint64_t restarts, stuck, starved;
    int asker_fd;      /* who asked for the upgrade; -1: nobody waits for an answer */
    bool upgrade;      /* the workers are to be replaced, too */
    uint64_t asked_ms; /* monotonic */
    struct heritage_change last;
    char failure[256]; /* why the new program did not come: told by the one that goes on. "" */
};

void heritage_init(struct heritage *heritage); /* no descriptors */
/* For execve, as lines. ERR_NOMEM. */
MUST_CHECK enum err heritage_write(const struct heritage *heritage, struct buf *out);
MUST_CHECK enum err heritage_read(struct span text, struct heritage *ret); /* ERR_SYNTAX, ERR_UNSUPPORTED */
void heritage_keep_open(struct heritage *heritage, bool keep);             /* every descriptor in it, over an execve */
void heritage_close(struct heritage *heritage); /* all descriptors that nobody took, but those passed */
/* Executes that program with these arguments (NULL-terminated) and what is left. Returns only when it cannot: ->failure
 * says why. */
void heritage_become(struct heritage *heritage, const char *program, const char *const *arguments);
/* What stands in the memory file of this descriptor (in digits), which is closed. Errors of heritage_read and file_read. */
MUST_CHECK enum err heritage_inherit(const char *number, struct heritage *ret);
