/* checkup.h - tries whether another program could take this one's place: its --version, then its own opinion of the
 * configuration, in processes of their own and in bounded time. One at a time. */
#pragma once
#include "common/err.h"
#include <uv.h>

#define CHECKUP_TIMEOUT_MS 10000u /* a program that is slower to say its name will not do better as a master */
#define CHECKUP_SAID_BYTES 512u

/* The first line that it said (standard output and error together), and how it ended: NULL is well, else "ended with
 * status 2", "ended by signal 11", "took longer than 10s". Both until it returns. */
typedef void checkup_done(void *user, const char *said, const char *failure);

struct checkup {
    uv_loop_t *loop;
    struct checkup_run *run; /* NULL: idle */
};
void checkup_init(struct checkup *checkup, uv_loop_t *loop);
/* args[0]: the program's absolute path. done is called once, from the loop, unless this fails (ERR_NOMEM; ERR_IO: it
 * cannot be executed) or it is closed before. */
MUST_CHECK enum err checkup_start(struct checkup *checkup, const char *const *args, checkup_done *done, void *user);
void checkup_close(struct checkup *checkup); /* ends the process; run the loop until its handles are closed */
