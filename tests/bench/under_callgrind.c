/* under_callgrind.c - preloaded into a node (LD_PRELOAD), it makes each worker start below callgrind.
 *
 * A master starts workers from its own image (/proc/self/exe), so no script can stand in their way, and the master itself
 * calls what this valgrind does not know. Descriptors, process id and arguments stay. UNDER_CALLGRIND: where callgrind
 * writes. Counting is off until callgrind_control turns it on. */
#include "common/base.h"
#include <unistd.h>

#define ARGUMENTS_MAX 64
#define OPTIONS       4

__attribute__((constructor)) static void begin(int argc, char **argv)
{
    static char program[4096], out[4096];
    const char *directory = getenv("UNDER_CALLGRIND");
    if (!directory || argc < 2 || argc > ARGUMENTS_MAX || strcmp(argv[1], "--worker") != 0)
        return;
    const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (length <= 0 || (size_t)snprintf(out, sizeof(out), "--callgrind-out-file=%s/out.%%p", directory) >= sizeof(out))
        return;
    static char tool[] = "--tool=callgrind", start[] = "--instr-atstart=no", valgrind[] = "valgrind", quiet[] = "-q";
    char *args[ARGUMENTS_MAX + OPTIONS + 2] = { valgrind, quiet, tool, start, out, program };
    for (int i = 1; i <= argc; i++) /* the NULL, too */
        args[OPTIONS + 1 + i] = argv[i];
    unsetenv("LD_PRELOAD");
    unsetenv("UNDER_CALLGRIND");
    execvp(args[0], args);
    perror("valgrind");
}
