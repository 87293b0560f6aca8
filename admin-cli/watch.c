#include "admin-cli/watch.h"
#include <time.h>

#define WATCH_MS 1000

int watch(struct cli *cli, watch_show *show)
{
    const struct timespec pause = { .tv_sec = WATCH_MS / 1000 };
    bool live = true;
    int code;
    do {
        if (opts_flag(&cli->given, "watch") && cli->terminal)
            fputs("\033[H\033[J", stdout);
        code = show(cli, &live);
        fflush(stdout);
        live = live && code == EXIT_GOOD && opts_flag(&cli->given, "watch");
        arena_reset(&cli->arena);
        if (live)
            nanosleep(&pause, NULL);
    } while (live);
    return code;
}
