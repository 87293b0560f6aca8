#include "dataplane/worker/backtrace.h"
#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#define FRAMES_MAX 64

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody reads: there is nobody else to tell */
}

static void on_signal(int number)
{
    void *frames[FRAMES_MAX];
    const int kept = errno;
    (void)number;
    say("worker.backtrace begin\n");
    backtrace_symbols_fd(frames, backtrace(frames, FRAMES_MAX), STDERR_FILENO);
    say("worker.backtrace end\n");
    errno = kept;
}

enum err backtrace_on_signal(int number)
{
    void *frame;
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    (void)backtrace(&frame, 1); /* the first call loads libgcc, which a handler must not: backtrace(3) */
    return sigaction(number, &action, NULL) == 0 ? OK : ERR_IO;
}
