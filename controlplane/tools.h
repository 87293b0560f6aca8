/* tools.h - what the control plane's program does without running: check and bundle files, list presets, restore a
 * backup. The CLI calls these, so that policies are understood in one place. Each returns the exit status: 0 good, 1
 * the input is wrong (told on stdout), 2 it could not be done (told on stderr). */
#pragma once
#include "common/base.h"

int tool_check(const char *file, const char *prices_file, bool json);
int tool_bundle(const char *file); /* the bundle on stdout, diagnostics on stderr */
/* A policy and a directory (NULL: the policy's own file may hold one) into the files of proto/simulation.h in `to`, as a
 * push would compile them; diagnostics on stderr. */
int tool_compile(const char *file, const char *directory, const char *to, const char *prices_file);
int tool_presets(void); /* JSON on stdout */
/* Puts the store of a backup in place of home's (kept aside) and raises the epoch, so that nodes take it only after
 * `nodes adopt`. Refuses while a control plane runs. */
int tool_restore(const char *home, const char *backup_dir);
