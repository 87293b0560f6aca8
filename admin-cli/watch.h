/* watch.h - `--watch`: the same view again and again. */
#pragma once
#include "admin-cli/cli.h"

/* One view on stdout. *ret_live: there is more to come. */
typedef int watch_show(struct cli *cli, bool *ret_live);
/* Shows once; with --watch, every second until nothing more is to come or asking fails, in place on a terminal, else one
 * view behind the other. Gives the last view's exit code. The arena is reset between views. */
int watch(struct cli *cli, watch_show *show);
