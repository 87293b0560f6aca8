/* detach.h - `fairlead up --detach`: the program runs itself again in a session of its own, whose output goes to the
 * log in the home and whose exit code so far comes back over a pipe. */
#pragma once
#include <stdbool.h>

struct cli;

/* In the parent: runs `fairlead up` with the same options and waits for its word. EXIT_GOOD when it is up; else the
 * exit code, and what went wrong goes from its log to stderr. */
int detach_spawn(struct cli *cli);
/* In `fairlead up`: when it was run by detach_spawn, its output goes to the log from here on. False: the log cannot be
 * written. */
bool detach_begin(struct cli *cli);
bool detach_is_child(void);
/* Gives the parent its word, once: EXIT_GOOD, it is up, or the exit code. False when there is no parent that waits. */
bool detach_tell(int code);
