#include "common/notify.h"
#include "common/span.h"
#include <stdarg.h>
#include <unistd.h>

static const char SOCKET[] = "NOTIFY_SOCKET", WATCHDOG[] = "WATCHDOG_USEC", WATCHDOG_PID[] = "WATCHDOG_PID";

static bool parse_address(struct notify *n, const char *text)
{
    const size_t len = text ? strlen(text) : 0;
    if (len < 2 || len >= sizeof(n->to.sun_path) || (text[0] != '/' && text[0] != '@'))
        return false;
    n->to.sun_family = AF_UNIX;
    memcpy(n->to.sun_path, text, len + 1);
    n->to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    if (text[0] == '@') { /* unix(7): an abstract name begins with a NUL and ends with the length */
        n->to.sun_path[0] = '\0';
        n->to_len--;
    }
    return true;
}

static uint64_t number(const char *text)
{
    uint64_t value;
    return text && span_to_u64(span_cstr(text), &value) == OK ? value : 0;
}

void notify_open(struct notify *n)
{
    *n = (struct notify){ .fd = -1 };
    const char *for_pid = getenv(WATCHDOG_PID);
    if (parse_address(n, getenv(SOCKET)))
        n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!for_pid || number(for_pid) == (uint64_t)getpid())
        n->watchdog_us = number(getenv(WATCHDOG));
    (void)unsetenv(SOCKET);
    (void)unsetenv(WATCHDOG);
    (void)unsetenv(WATCHDOG_PID);
}

enum err notify_restore_environment(const struct notify *n)
{
    char address[sizeof(n->to.sun_path) + 1] = "", us[24];
    if (n->fd < 0)
        return OK;
    memcpy(address, n->to.sun_path, n->to_len - offsetof(struct sockaddr_un, sun_path));
    if (address[0] == '\0')
        address[0] = '@';
    (void)snprintf(us, sizeof(us), "%llu", (unsigned long long)n->watchdog_us);
    if (setenv(SOCKET, address, 1) || (n->watchdog_us && setenv(WATCHDOG, us, 1)))
        return ERR_NOMEM;
    return OK;
}

void notify_say(struct notify *n, const char *fmt, ...)
{
    char text[NOTIFY_BYTES_MAX];
    va_list args;
    if (n->fd < 0)
        return;
    va_start(args, fmt);
    const int len = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (len > 0)
        (void)sendto(n->fd, text, size_min((size_t)len, sizeof(text) - 1), MSG_NOSIGNAL | MSG_DONTWAIT,
                     (const struct sockaddr *)&n->to, n->to_len);
}

void notify_reloading(struct notify *n)
{
    struct timespec now; /* the manager's own clock, not ours to replace */
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    notify_say(n, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
}

void notify_alive(struct notify *n, uint64_t now_ms)
{
    if (n->fd < 0 || n->watchdog_us == 0 || (n->alive_ms && (now_ms - n->alive_ms) * 2000 < n->watchdog_us))
        return;
    n->alive_ms = now_ms;
    notify_say(n, "WATCHDOG=1");
}

void notify_close(struct notify *n)
{
    if (n->fd >= 0)
        (void)close(n->fd);
    n->fd = -1;
}
