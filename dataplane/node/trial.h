/* trial.h - runs `fairlead-dataplane --selftest` on some frames and tells how it ended. One at a time. */
#pragma once
#include "common/buf.h"
#include <uv.h>

/* ok, or why not: "unsupported: ...", "ended by signal 11", "took longer than 5s". Until it returns. */
typedef void trial_done(void *user, bool ok, const char *why);

struct trial {
    uv_loop_t *loop;
    const char *program;
    struct trial_run *run; /* NULL: idle */
};

void trial_init(struct trial *trial, uv_loop_t *loop, const char *program); /* program: borrowed, absolute path */
/* Takes the bytes of frames (left empty). done is called once, from the loop, unless this fails (ERR_AGAIN: one runs;
 * ERR_NOMEM, ERR_IO) or the trial is closed before. */
MUST_CHECK enum err trial_start(struct trial *trial, struct buf *frames, trial_done *done, void *user);
bool trial_running(const struct trial *trial);
/* Ends the process; run the loop until its handles are closed. */
void trial_close(struct trial *trial);
