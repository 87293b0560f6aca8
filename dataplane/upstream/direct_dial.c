#include "dataplane/upstream/direct_internal.h"

static void connect_failure(struct direct_try *t, int uv_error)
{
    switch (uv_error) {
    case UV_ENOMEM:
        t->failure = ERR_NOMEM;
        break;
    case UV_ETIMEDOUT:
        t->failure = ERR_TIMEOUT;
        break;
    case UV_EMFILE:
    case UV_ENFILE:
        t->failure = ERR_IO;
        break;
    default:
        t->failure = ERR_REFUSED;
        break;
    }
    t->failure_why = uv_strerror(uv_error);
}

/* The only dial that is left shakes hands: others are tried when it fails, not beside it. */
static bool securing(const struct direct_try *t)
{
    return t->dials && t->dials->state == DIRECT_CONN_SECURING;
}

static void arm(struct direct_try *t)
{
    const uint64_t now_ms = direct_now_ms(t->destination->lane);
    uint64_t due_ms = t->connect_due_ms;
    if (!t->waits && !securing(t) && t->dialed < t->destination->address_count && due_ms > now_ms + DIRECT_STAGGER_MS)
        due_ms = now_ms + DIRECT_STAGGER_MS;
    direct_try_wake_in(t, due_ms > now_ms ? due_ms - now_ms : 0);
}

static void dial_next(struct direct_try *t)
{
    const struct direct_destination *d = t->destination;
    while (t->dialed < d->address_count) {
        struct direct_conn *conn;
        const int failed = direct_conn_open(t, (d->address_first + t->dialed++) % d->address_count, &conn);
        if (failed == 0) {
            conn->next_dial = t->dials;
            t->dials = conn;
            break;
        }
        connect_failure(t, failed);
    }
    if (t->dials)
        arm(t);
    else
        direct_try_fail_soon(t, t->failure ? t->failure : ERR_REFUSED, t->failure ? t->failure_why : "no address");
}

static void wait_for_name(struct direct_try *t)
{
    struct direct_destination *d = t->destination;
    t->waits = true;
    t->previous_waiting = NULL;
    t->next_waiting = d->waiting;
    if (t->next_waiting)
        t->next_waiting->previous_waiting = t;
    d->waiting = t;
    arm(t);
    if (!d->asking)
        direct_names_ask(d);
}

static void wait_no_more(struct direct_try *t)
{
    if (!t->waits)
        return;
    t->waits = false;
    if (t->previous_waiting)
        t->previous_waiting->next_waiting = t->next_waiting;
    else
        t->destination->waiting = t->next_waiting;
    if (t->next_waiting)
        t->next_waiting->previous_waiting = t->previous_waiting;
}

void direct_dial(struct direct_try *t)
{
    const struct direct_destination *d = t->destination;
    const uint64_t now_ms = direct_now_ms(d->lane);
    t->phase = UPSTREAM_CONNECTING;
    t->dialed = 0;
    t->failure = OK;
    t->connect_due_ms = t->request.connect_timeout_ms ? now_ms + t->request.connect_timeout_ms : UINT64_MAX;
    if (d->literal || (d->address_count > 0 && now_ms < d->addresses_until_ms))
        dial_next(t);
    else
        wait_for_name(t);
}

void direct_dial_named(struct direct_destination *d, enum err err, const char *why)
{
    while (d->waiting) {
        struct direct_try *t = d->waiting;
        wait_no_more(t);
        if (err)
            direct_try_fail_soon(t, err, why);
        else
            dial_next(t);
    }
}

void direct_dial_due(struct direct_try *t)
{
    if (direct_now_ms(t->destination->lane) >= t->connect_due_ms) {
        direct_try_finish(t, ERR_TIMEOUT,
                          t->waits      ? "the name was not found in time"
                          : securing(t) ? "the TLS handshake took too long"
                                        : "the connection took too long");
    } else if (!t->waits && !securing(t) && t->dialed < t->destination->address_count) {
        dial_next(t);
    } else {
        arm(t);
    }
}

static void close_dials(struct direct_try *t, const struct direct_conn *but)
{
    for (struct direct_conn *conn = t->dials, *next; conn; conn = next) {
        next = conn->next_dial;
        conn->next_dial = NULL;
        if (conn != but)
            direct_conn_close(conn);
    }
    t->dials = NULL;
}

void direct_dial_stop(struct direct_try *t)
{
    wait_no_more(t);
    close_dials(t, NULL);
    uv_timer_stop(&t->timer);
}

/* The try has its connection: sends. */
static void use(struct direct_conn *conn)
{
    struct direct_try *t = conn->try;
    struct direct_lane *lane = conn->lane;
    t->dials = NULL;
    t->conn = conn;
    t->destination->address_first = conn->address;
    uv_timer_stop(&t->timer);
    t->phase = UPSTREAM_SENDING;
    direct_conn_become(conn, DIRECT_CONN_BUSY);
    buf_clear(&lane->head);
    enum err err = direct_head_write(&lane->head, &t->request);
    if (!err && direct_conn_read(conn) != 0)
        err = ERR_IO;
    if (!err)
        err = direct_conn_send(conn);
    if (err)
        direct_try_finish(t, err, err == ERR_NOMEM ? "out of memory" : "the request could not be written");
}

/* This address was no good, as t->failure says: the next one, if there is one. */
static void try_another(struct direct_conn *conn)
{
    struct direct_try *t = conn->try;
    for (struct direct_conn **at = &t->dials; *at; at = &(*at)->next_dial) {
        if (*at == conn) {
            *at = conn->next_dial;
            break;
        }
    }
    conn->next_dial = NULL;
    direct_conn_close(conn);
    if (t->dialed < t->destination->address_count)
        dial_next(t);
    else if (!t->dials)
        direct_try_finish(t, t->failure, t->failure_why);
}

void direct_dial_insecure(struct direct_conn *conn, enum err err, const char *why)
{
    struct direct_try *t = conn->try;
    t->failure = err;
    t->failure_why = why;
    try_another(conn);
}

static void secure(struct direct_conn *conn)
{
    struct direct_try *t = conn->try;
    const char *why = "the connection could not be read";
    direct_conn_become(conn, DIRECT_CONN_SECURING);
    t->dials = conn;
    arm(t);
    enum err err = direct_tls_open(conn, &why);
    if (err) { /* of ours: no address is to blame */
        direct_try_finish(t, err, why);
        return;
    }
    err = direct_conn_read(conn) == 0 ? direct_tls_handshake(conn, SPAN(""), &why) : ERR_IO;
    if (err && err != ERR_AGAIN)
        direct_dial_insecure(conn, err, why);
}

void direct_dial_secured(struct direct_conn *conn)
{
    use(conn);
}

void direct_dial_connected(struct direct_conn *conn, int status)
{
    struct direct_try *t = conn->try;
    if (status < 0) {
        connect_failure(t, status);
        try_another(conn);
        return;
    }
    close_dials(t, conn);
    if (t->destination->tls)
        secure(conn);
    else
        use(conn);
}
