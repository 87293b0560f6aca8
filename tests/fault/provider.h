/* provider.h - a provider in a process of its own whose answers are the same to the byte each time, so that whatever
 * comes to the client can be compared. A thread for each connection, blocking: no allocation or call of it is counted
 * by the faults of the test's process.
 *
 * What it does is said by the request's text: "close" (the connection ends after the answer), "big" (2 MiB of answer),
 * "cut" (a reset in the middle), "wait" (a stream that stops after its first event until the peer leaves). A model
 * called "ill" gets 503. */
#pragma once
#include "tests/unit/dataplane/upstream/support_tls.h"
#include "common/base.h"
#include "common/span.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROVIDER_REQUEST_MAX (512u << 10)
#define PROVIDER_BIG_BYTES   (2u << 20)
#define PROVIDER_EVENTS      12

#define PROVIDER_ANSWER_HEAD                                                                                           \
    "{\"id\":\"1\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","      \
    "\"content\":\""
#define PROVIDER_ANSWER_TAIL                                                                                           \
    "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":20,\"total_tokens\":30}}"
#define PROVIDER_EVENT(delta, finish)                                                                                  \
    "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":" delta              \
    ",\"finish_reason\":" finish "}]}\n\n"

struct provider_process {
    struct tls_server tls;
    int port, tls_port;
    pid_t pid;
};
struct provider_peer {
    int fd;
    SSL *ssl; /* NULL: plain */
    char bytes[PROVIDER_REQUEST_MAX];
    size_t len;
};

static inline bool provider_say(struct provider_peer *peer, const char *text, size_t len)
{
    while (len > 0) {
        const int part = len > (1 << 20) ? 1 << 20 : (int)len;
        const ssize_t n = peer->ssl ? SSL_write(peer->ssl, text, part) : send(peer->fd, text, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

static inline bool provider_hear(struct provider_peer *peer)
{
    char *at = peer->bytes + peer->len;
    const size_t room = sizeof(peer->bytes) - 1 - peer->len;
    const ssize_t n = peer->ssl ? SSL_read(peer->ssl, at, (int)room) : recv(peer->fd, at, room, 0);
    if (n <= 0)
        return false;
    peer->len += (size_t)n;
    peer->bytes[peer->len] = '\0';
    return true;
}

/* Bytes of the first whole request, 0 when the peer has left. */
static inline size_t provider_request(struct provider_peer *peer)
{
    for (;;) {
        const char *end = strstr(peer->bytes, "\r\n\r\n");
        if (end) {
            const char *length = strcasestr(peer->bytes, "content-length:");
            const size_t body = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
            const size_t whole = (size_t)(end - peer->bytes) + 4 + body;
            if (whole <= peer->len)
                return whole;
        }
        if (!provider_hear(peer))
            return 0;
    }
}

static inline void provider_reset(struct provider_peer *peer)
{
    const struct linger hard = { .l_onoff = 1, .l_linger = 0 };
    (void)setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}

static inline bool provider_chunk(struct provider_peer *peer, const char *event)
{
    char text[512];
    const int n = snprintf(text, sizeof(text), "%zx\r\n%s\r\n", strlen(event), event);
    return provider_say(peer, text, (size_t)n);
}

static inline bool provider_stream(struct provider_peer *peer, const char *ask, bool closes)
{
    char head[256];
    const int n = snprintf(head, sizeof(head),
                           "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%sTransfer-Encoding: chunked\r\n\r\n",
                           closes ? "Connection: close\r\n" : "");
    if (!provider_say(peer, head, (size_t)n) ||
        !provider_chunk(peer, PROVIDER_EVENT("{\"role\":\"assistant\",\"content\":\"\"}", "null")))
        return false;
    for (unsigned i = 0; i < PROVIDER_EVENTS; i++) {
        char event[256];
        snprintf(event, sizeof(event), PROVIDER_EVENT("{\"content\":\"token %u \"}", "null"), i);
        if (!provider_chunk(peer, event))
            return false;
        if (strstr(ask, "wait") && i == 0) {
            (void)provider_hear(peer);
            return false;
        }
        if (strstr(ask, "cut") && i == PROVIDER_EVENTS / 2) {
            provider_reset(peer);
            return false;
        }
    }
    return provider_chunk(peer, PROVIDER_EVENT("{}", "\"stop\"")) &&
           provider_chunk(peer, "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{"
                                "\"prompt_tokens\":10,\"completion_tokens\":20,\"total_tokens\":30}}\n\n") &&
           provider_chunk(peer, "data: [DONE]\n\n") && provider_say(peer, "0\r\n\r\n", 5);
}

static inline bool provider_whole(struct provider_peer *peer, const char *ask, bool closes)
{
    const bool ill = strstr(ask, "\"model\":\"ill\"");
    const char *text = ill ? "{\"error\":{\"message\":\"ill\"}}" : PROVIDER_ANSWER_HEAD "hi there" PROVIDER_ANSWER_TAIL;
    char *big = NULL;
    size_t len = strlen(text);
    if (strstr(ask, "big")) {
        big = malloc(PROVIDER_BIG_BYTES);
        if (!big)
            return false;
        len = PROVIDER_BIG_BYTES;
        memset(big, 'x', len);
        memcpy(big, PROVIDER_ANSWER_HEAD, strlen(PROVIDER_ANSWER_HEAD));
        memcpy(big + len - strlen(PROVIDER_ANSWER_TAIL), PROVIDER_ANSWER_TAIL, strlen(PROVIDER_ANSWER_TAIL));
        text = big;
    }
    char head[256];
    const int n =
        snprintf(head, sizeof(head), "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
                 ill ? "503 Service Unavailable" : "200 OK", closes ? "Connection: close\r\n" : "", len);
    const bool said = provider_say(peer, head, (size_t)n) && provider_say(peer, text, len);
    free(big);
    return said;
}

static inline void *provider_serve(void *user)
{
    struct provider_peer *peer = user;
    if (!peer->ssl || SSL_accept(peer->ssl) == 1) {
        for (size_t whole; (whole = provider_request(peer)) > 0;) {
            const char kept = peer->bytes[whole];
            peer->bytes[whole] = '\0';
            const bool closes = strstr(peer->bytes, "close");
            const bool stream = strstr(peer->bytes, "\"stream\":true") && !strstr(peer->bytes, "\"model\":\"ill\"");
            if (!(stream ? provider_stream : provider_whole)(peer, peer->bytes, closes) || closes)
                break;
            peer->bytes[whole] = kept;
            peer->len -= whole;
            memmove(peer->bytes, peer->bytes + whole, peer->len + 1);
        }
        if (peer->ssl)
            (void)SSL_shutdown(peer->ssl);
    }
    SSL_free(peer->ssl);
    close(peer->fd);
    free(peer);
    return NULL;
}

static inline int provider_listen(int *ret_port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(listen(fd, 64), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

_Noreturn static inline void provider_run(const struct tls_server *tls, const int *listeners)
{
    for (;;) {
        struct pollfd ready[] = { { .fd = listeners[0], .events = POLLIN }, { .fd = listeners[1], .events = POLLIN } };
        if (poll(ready, 2, -1) < 0)
            _exit(1);
        for (unsigned i = 0; i < 2; i++) {
            pthread_t thread;
            struct provider_peer *peer = ready[i].revents ? calloc(1, sizeof(*peer)) : NULL;
            if (!peer)
                continue;
            peer->fd = accept(listeners[i], NULL, NULL);
            (void)setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
            if (i == 1) {
                peer->ssl = SSL_new(tls->ctx);
                SSL_set_fd(peer->ssl, peer->fd);
            }
            if (pthread_create(&thread, NULL, provider_serve, peer) != 0)
                _exit(1);
            pthread_detach(thread);
        }
    }
}

/* Before anything else of the test: the child has nothing of what is tested. */
static inline void provider_start(struct provider_process *p)
{
    const int listeners[] = { provider_listen(&p->port), provider_listen(&p->tls_port) };
    tls_server_init(&p->tls, "IP:127.0.0.1", 30);
    p->pid = fork();
    assert_true(p->pid >= 0);
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_IGN);
        provider_run(&p->tls, listeners);
    }
    close(listeners[0]);
    close(listeners[1]);
}

static inline void provider_stop(struct provider_process *p)
{
    assert_int_equal(kill(p->pid, SIGKILL), 0);
    assert_int_equal(waitpid(p->pid, NULL, 0), p->pid);
    tls_server_release(&p->tls);
}
