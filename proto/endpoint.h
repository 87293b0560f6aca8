/* endpoint.h - one end of a link: an nng socket with its listener or dialer. Internal to proto/channel.
 *
 * Each has a thread of its own, the keeper, which makes a listener or dialer again that nng ended, and closes the
 * socket. Both may wait for nng's threads, so neither may run on one of those (two dialers closed at once on the two
 * task threads of a machine with one core would wait for each other) nor on the caller's loop (nng_close can wait for
 * ever). */
#pragma once
#include "common/base.h"
#include "common/err.h"

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>
#include <pthread.h>

struct channel_tls;

enum transport { TRANSPORT_IPC, TRANSPORT_TCP, TRANSPORT_TLS };

struct endpoint {
    nng_socket socket;
    char *address; /* owned */
    enum transport transport;
    int ipc_mode;
    nng_tls_config *tls; /* owned; NULL elsewhere */
    /* The owner's before endpoint_watch, then the keeper's. */
    nng_listener listener;
    nng_dialer dialer;
    uint64_t other_seen, accepted_seen, progress_seen;
    unsigned looks; /* since the last visit, greeting or progress */
    int visitor;    /* our own connection to our listener; -1 */
    bool greeted;

    void (*stop)(void *owner);    /* stops every aio of the owner's */
    void (*release)(void *owner); /* the owner left us behind and we closed after all: frees what it had to leave */
    void *owner;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool watching, closing, busy, closed, left; /* under lock */
};

enum err endpoint_err(int nng_code);
void endpoint_log(const char *event, const char *address, int nng_code);

/* Judges the address and copies it. ERR_INVALID, ERR_TOO_LARGE, ERR_DENIED, ERR_NOMEM, and what the TLS files cause.
 * On success endpoint_release is due. */
MUST_CHECK enum err endpoint_init(struct endpoint *end, const char *address, const struct channel_tls *tls,
                                  nng_tls_mode mode);
void endpoint_release(struct endpoint *end);
/* For a listener, before its socket is opened: ERR_EXISTS if an ipc path is somebody's file or socket. */
MUST_CHECK enum err endpoint_path_check(const struct endpoint *end);
/* Sets a socket's limits and, for a requester (`asks`), that nothing is sent twice. nng's codes. */
MUST_CHECK int endpoint_configure(nng_socket socket, bool asks);
/* nng's codes. */
MUST_CHECK int endpoint_listen(struct endpoint *end);
MUST_CHECK int endpoint_dial(struct endpoint *end, int flags);

/* Starts the keeper of an opened socket, with stop, release and owner set; then endpoint_close is due. ERR_NOMEM. */
MUST_CHECK enum err endpoint_keep(struct endpoint *end);
void endpoint_watch(struct endpoint *end); /* from now on the keeper looks after the listener or dialer */
/* Stops the owner's aios and closes the socket, on the keeper; waits two seconds at most. True: done, the keeper is gone.
 * False: not yet; the owner's completions may still come. It makes itself deaf to them and calls endpoint_leave.
 * busy: messages may be on their way. */
MUST_CHECK bool endpoint_close(struct endpoint *end, bool busy);
/* Leaves a close behind: `release` is called, here or on the keeper, when it has ended, if ever. The owner touches
 * nothing afterwards that release frees. */
void endpoint_leave(struct endpoint *end);

/* Waits for *flag, under lock; true if it was set in time. `changed` is endpoint_cond_init's. */
bool endpoint_wait(pthread_cond_t *changed, pthread_mutex_t *lock, const bool *flag, uint64_t wait_ms);
void endpoint_cond_init(pthread_cond_t *changed);
int endpoint_thread(void *(*run)(void *), void *arg); /* detached, gets no signals; 0 or errno's */
/* Milliseconds to wait for a close: less when an earlier one is stuck, for then so will be this one. */
uint64_t endpoint_close_wait_ms(void);
void endpoint_left(int more); /* counts closes left behind (+1) and those that ended after all (-1) */
#define ENDPOINT_QUIET_MS 20  /* from stopping the aios of a busy socket to closing it */
