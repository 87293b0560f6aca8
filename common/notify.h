/* notify.h - tells the service manager how we are: sd_notify(3)'s protocol, which is one datagram a message, without its
 * library. Without a manager ($NOTIFY_SOCKET) every call does nothing; a message that cannot be sent is dropped, since
 * no service is worse for it than for stopping. One thread. */
#pragma once
#include "common/base.h"
#include "common/err.h"
#include <sys/socket.h>
#include <sys/un.h>

#define NOTIFY_BYTES_MAX 1024u /* of one message; a status is a line that people read */

struct notify {
    int fd; /* -1: nobody to tell */
    struct sockaddr_un to;
    socklen_t to_len;
    uint64_t watchdog_us; /* the manager ends us when it hears nothing for so long; 0: never */
    uint64_t alive_ms;    /* when it heard last that we are */
};

/* Takes NOTIFY_SOCKET (a path, or @ and an abstract name), WATCHDOG_USEC and WATCHDOG_PID out of the environment, so
 * that no child speaks for us. */
void notify_open(struct notify *notify);
/* Puts them back, for a program that is about to execute itself again. ERR_NOMEM. */
MUST_CHECK enum err notify_restore_environment(const struct notify *notify);
/* Lines of VARIABLE=value, as "READY=1\nSTATUS=serving"; a longer message is cut. */
void notify_say(struct notify *notify, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Settings are read again: READY=1 has to follow (Type=notify-reload). */
void notify_reloading(struct notify *notify);
/* To be called often: tells that we are alive each half of the watchdog's time, and costs nothing between. */
void notify_alive(struct notify *notify, uint64_t now_ms);
void notify_close(struct notify *notify);
