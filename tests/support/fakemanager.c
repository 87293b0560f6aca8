/* fakemanager - a service manager of a few lines: starts a program with sockets (sd_listen_fds(3)) and a notification
 * socket (sd_notify(3)), and prints what it hears, a line a message ("notify READY=1;STATUS=..."). SIGTERM, SIGHUP and
 * SIGINT are passed on; ends as the program ends.
 *
 *   fakemanager [--socket NAME=IP:PORT | NAME=unix:PATH | NAME=udp:IP:PORT]... [--watchdog-ms N] [--abstract] -- PROGRAM ARGS */
#include "common/opts.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASSED_FIRST 3
#define PASSED_MAX   16

static const struct opt options[] = {
    { "socket", 0, OPT_MANY, "NAME=ADDRESS", "passed to the program, in order" },
    { "watchdog-ms", 0, OPT_TEXT, "N", "what WATCHDOG_USEC says" },
    { "abstract", 0, OPT_FLAG, NULL, "the notification socket has an abstract name" },
};

static int fail(const char *what)
{
    fprintf(stderr, "fakemanager: %s: %s\n", what, strerror(errno));
    return 1;
}

static int open_unix(const char *path, int type)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    const size_t len = strlen(path);
    if (len >= sizeof(to.sun_path))
        return -1;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    const socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] != '@'));
    return fd >= 0 && bind(fd, (struct sockaddr *)&to, bytes) == 0 ? fd : -1;
}

static int open_ip(char *address, int type)
{
    struct sockaddr_in to = { .sin_family = AF_INET };
    socklen_t len = sizeof(to);
    char *colon = strrchr(address, ':');
    if (!colon)
        return -1;
    *colon = '\0';
    to.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    const int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 || bind(fd, (struct sockaddr *)&to, sizeof(to)) ||
        getsockname(fd, (struct sockaddr *)&to, &len))
        return -1;
    printf("socket %s:%u\n", address, (unsigned)ntohs(to.sin_port));
    return fd;
}

/* Listening where it can; -1. */
static int open_socket(const char *text)
{
    char address[256];
    (void)snprintf(address, sizeof(address), "%s", text);
    if (strncmp(address, "udp:", 4) == 0)
        return open_ip(address + 4, SOCK_DGRAM);
    const int fd =
        strncmp(address, "unix:", 5) == 0 ? open_unix(address + 5, SOCK_STREAM) : open_ip(address, SOCK_STREAM);
    return fd >= 0 && listen(fd, 64) == 0 ? fd : -1;
}

/* In the child: descriptors from 3 on, the environment, the program. */
static void become(char *const *program, const int *fds, unsigned count, const char *names, const char *notify,
                   const char *watchdog_ms)
{
    char text[32];
    int moved[PASSED_MAX];
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i < count; i++) /* out of the way of each other */
        moved[i] = dup(fds[i]);
    for (unsigned i = 0; i < count; i++) {
        while (moved[i] >= 0 && moved[i] < PASSED_FIRST + (int)count)
            moved[i] = dup(moved[i]);
    }
    for (unsigned i = 0; i < count; i++)
        (void)dup2(moved[i], PASSED_FIRST + (int)i);
    for (int fd = PASSED_FIRST + (int)count; fd < 256; fd++)
        (void)close(fd);
    (void)snprintf(text, sizeof(text), "%ld", (long)getpid());
    (void)setenv("WATCHDOG_PID", text, 1);
    if (count > 0) {
        (void)setenv("LISTEN_PID", text, 1);
        (void)setenv("LISTEN_FDNAMES", names, 1);
        (void)snprintf(text, sizeof(text), "%u", count);
        (void)setenv("LISTEN_FDS", text, 1);
    }
    (void)setenv("NOTIFY_SOCKET", notify, 1);
    if (watchdog_ms) {
        (void)snprintf(text, sizeof(text), "%s000", watchdog_ms);
        (void)setenv("WATCHDOG_USEC", text, 1);
    }
    execvp(program[0], program);
    _exit(fail(program[0]));
}

static void print_message(int notify)
{
    char text[4096];
    const ssize_t n = recv(notify, text, sizeof(text) - 1, 0);
    for (ssize_t i = 0; i < n; i++)
        text[i] = text[i] == '\n' ? ';' : text[i];
    if (n >= 0)
        printf("notify %.*s\n", (int)n, text);
}

/* Until the child has ended. */
static int watch(pid_t child, int notify, int signals)
{
    struct pollfd polled[] = { { .fd = notify, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
    for (;;) {
        struct signalfd_siginfo info;
        int status;
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            return fail("poll");
        if (polled[0].revents)
            print_message(notify);
        if (!(polled[1].revents & POLLIN) || read(signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
            continue;
        if (info.ssi_signo != SIGCHLD)
            (void)kill(child, (int)info.ssi_signo);
        else if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

int main(int argc, char **argv)
{
    struct opts_result given;
    char *message = NULL, names[512] = "", notify_name[64];
    int fds[PASSED_MAX];
    unsigned count = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (opts_parse(options, ARRAY_LEN(options), argc, argv, &given, &message) || given.arg_count == 0 ||
        given.arg_count == OPTS_VALUES_MAX) {
        fprintf(stderr, "fakemanager: %s\n", message ? message : "which program?");
        free(message);
        return 2;
    }
    for (unsigned i = 0; i < given.given_count; i++) {
        const char *value = given.given[i].value, *address = value ? strchr(value, '=') : NULL;
        if (strcmp(given.given[i].opt->name, "socket") != 0 || !address || count == PASSED_MAX)
            continue;
        fds[count] = open_socket(address + 1);
        if (fds[count++] < 0)
            return fail(value);
        const size_t used = strlen(names);
        (void)snprintf(names + used, sizeof(names) - used, "%s%.*s", used ? ":" : "", (int)(address - value), value);
    }
    (void)snprintf(notify_name, sizeof(notify_name), "%s%ld",
                   opts_flag(&given, "abstract") ? "@fl-manager-" : "/tmp/fl-manager-", (long)getpid());
    const int notify = open_unix(notify_name, SOCK_DGRAM);
    sigset_t set;
    sigemptyset(&set);
    static const int passed_on[] = { SIGTERM, SIGHUP, SIGINT, SIGCHLD };
    for (size_t i = 0; i < ARRAY_LEN(passed_on); i++)
        sigaddset(&set, passed_on[i]);
    if (notify < 0 || sigprocmask(SIG_BLOCK, &set, NULL))
        return fail(notify_name);
    const int signals = signalfd(-1, &set, SFD_CLOEXEC);
    given.args[given.arg_count] = NULL;
    const pid_t child = fork();
    if (child == 0)
        become((char *const *)(uintptr_t)given.args, fds, count, names, notify_name,
               opts_text(&given, "watchdog-ms", NULL));
    if (child < 0 || signals < 0)
        return fail("fork");
    printf("pid %ld\n", (long)child);
    const int status = watch(child, notify, signals);
    if (notify_name[0] == '/')
        (void)unlink(notify_name);
    return status;
}
