/* TLS by OpenSSL, without sockets of its own: records come from `in` and go to the lane's `cipher`, so that a request
 * of one record is one write, and one answer one read. */
/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include "dataplane/upstream/direct_internal.h"
#include "common/clock.h"
#include "common/fault.h"
#include "dataplane/worker/tls_bio.h"

#define CIPHER_BATCH_BYTES (48u << 10) /* of a long body: written at once */

struct direct_tls {
    SSL *ssl;
    struct direct_conn *conn;
    struct tls_bio ends;
    struct buf plain;   /* decrypted, not given: the try is paused */
    struct buf backlog; /* what TLS itself says (alerts, key updates) while a uv_write is under way */
    bool ended;         /* close_notify came */
};

/* ---- records out ---- */

/* The lane's cipher goes to the socket; what that does not take is kept. */
static enum err flush(struct direct_conn *conn)
{
    struct buf *cipher = &conn->lane->cipher;
    if (cipher->len == 0)
        return OK;
    enum err err = OK;
    if (conn->writing) {
        err = buf_append(&conn->tls->backlog, buf_span(cipher));
    } else if (!conn->send_failed) {
        const struct span all = buf_span(cipher);
        const uv_buf_t first = { .base = (char *)(uintptr_t)all.ptr, .len = all.len };
        const int taken = direct_conn_try_write(conn, &first, 1);
        if (taken < 0) {
            err = direct_conn_write_failed(conn);
        } else if ((size_t)taken < all.len) {
            err = buf_append(&conn->out, span_skip(all, (size_t)taken));
            const struct span rest = buf_span(&conn->out);
            const uv_buf_t later = { .base = (char *)(uintptr_t)rest.ptr, .len = rest.len };
            if (!err)
                err = direct_conn_write_later(conn, &later, 1);
        }
    }
    buf_clear(cipher);
    return err == ERR_FULL ? ERR_CLOSED : err; /* nobody reads what we say: no peer of ours */
}

enum err direct_tls_written(struct direct_conn *conn)
{
    struct direct_tls *tls = conn->tls;
    enum err err = buf_append(&conn->lane->cipher, buf_span(&tls->backlog));
    buf_release(&tls->backlog);
    return err ? err : flush(conn);
}

/* ---- set-up ---- */

static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    const struct direct_conn *conn = SSL_get_app_data(ssl);
    if (!conn->destination)
        return 0;
    SSL_SESSION_free(conn->destination->session);
    conn->destination->session = session;
    return 1; /* it is ours now */
}

static enum err make_context(struct direct_lane *lane, const char **ret_why)
{
    *ret_why = "out of memory for TLS";
    SSL_CTX *ctx = fault_hit(FAULT_ALLOC) ? NULL : SSL_CTX_new(TLS_client_method());
    if (!ctx)
        return ERR_NOMEM;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* an idle connection holds no record buffers */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, on_new_session);
    static const unsigned char protocols[] = "\x08http/1.1";
    bool good = SSL_CTX_set_alpn_protos(ctx, protocols, sizeof(protocols) - 1) == 0; /* 0 is success here */
    if (good &&
        !(lane->ca_file ? SSL_CTX_load_verify_file(ctx, lane->ca_file) : SSL_CTX_set_default_verify_paths(ctx))) {
        *ret_why = "the certificates to verify by cannot be read";
        good = false;
    }
    if (!good) {
        SSL_CTX_free(ctx);
        ERR_clear_error();
        return ERR_DENIED;
    }
    lane->tls = ctx;
    return OK;
}

/* An address is looked for among the certificate's addresses, a name is told to the server, too (RFC 6066 section 3).
 */
static bool set_peer(SSL *ssl, const struct direct_destination *d)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (d->literal)
        return X509_VERIFY_PARAM_set1_ip_asc(param, d->host) == 1;
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_host(param, d->host, d->host_len) == 1 && SSL_set_tlsext_host_name(ssl, d->host) == 1;
}

/* What was verified once is not verified again on resumption: not beyond the certificate's life. */
static void resume_session(SSL *ssl, struct direct_destination *d)
{
    if (d->session && d->certificate_expires_at_ms > clock_wall_ms())
        SSL_set_session(ssl, d->session);
}

enum err direct_tls_open(struct direct_conn *conn, const char **ret_why)
{
    struct direct_lane *lane = conn->lane;
    if (!lane->tls) {
        const enum err err = make_context(lane, ret_why);
        if (err)
            return err;
    }
    *ret_why = "out of memory for TLS";
    struct direct_tls *tls = fault_calloc(1, sizeof(*tls));
    if (!tls)
        return ERR_NOMEM;
    tls->conn = conn;
    buf_init(&tls->plain, DIRECT_PLAIN_BYTES);
    buf_init(&tls->backlog, DIRECT_CIPHER_BYTES_MAX);
    conn->tls = tls;
    tls->ssl = fault_hit(FAULT_ALLOC) ? NULL : SSL_new(lane->tls);
    tls->ends.out = &lane->cipher;
    BIO *bio = tls->ssl ? tls_bio_new(&tls->ends) : NULL;
    if (!bio)
        return ERR_NOMEM;
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_connect_state(tls->ssl);
    if (SSL_set_app_data(tls->ssl, conn) != 1 || !set_peer(tls->ssl, conn->destination))
        return ERR_NOMEM;
    resume_session(tls->ssl, conn->destination);
    return OK;
}

void direct_tls_free(struct direct_tls *tls)
{
    if (!tls)
        return;
    if (tls->ssl) {
        /* Else OpenSSL takes the session for a broken one and does not resume it. */
        SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        SSL_free(tls->ssl);
    }
    buf_release(&tls->plain);
    buf_release(&tls->backlog);
    free(tls);
}

void direct_tls_forget(struct direct_destination *d)
{
    SSL_SESSION_free(d->session);
    d->session = NULL;
}

void direct_tls_lane_free(struct direct_lane *lane)
{
    SSL_CTX_free(lane->tls);
    lane->tls = NULL;
}

/* ---- handshake ---- */

static int64_t expiry_of(const SSL *ssl)
{
    const X509 *certificate = SSL_get0_peer_certificate(ssl);
    struct tm tm;
    if (!certificate || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1)
        return 0;
    return (int64_t)timegm(&tm) * 1000;
}

static const char *failure_text(const SSL *ssl)
{
    const long verdict = SSL_get_verify_result(ssl);
    const char *text =
        verdict != X509_V_OK ? X509_verify_cert_error_string(verdict) : ERR_reason_error_string(ERR_peek_error());
    return text ? text : "the TLS handshake failed";
}

enum err direct_tls_handshake(struct direct_conn *conn, struct span bytes, const char **ret_why)
{
    struct direct_tls *tls = conn->tls;
    tls->ends.in = bytes;
    ERR_clear_error();
    const int done = SSL_do_handshake(tls->ssl);
    const int what = done == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, done);
    const enum err flushed = flush(conn); /* an alert, too */
    if (what != SSL_ERROR_NONE && what != SSL_ERROR_WANT_READ) {
        *ret_why = failure_text(tls->ssl);
        ERR_clear_error();
        direct_tls_forget(conn->destination);
        return ERR_DENIED;
    }
    if (flushed) {
        *ret_why = "the TLS handshake could not be written";
        return flushed;
    }
    if (what == SSL_ERROR_WANT_READ)
        return ERR_AGAIN;
    conn->destination->certificate_expires_at_ms = expiry_of(tls->ssl);
    return OK;
}

/* ---- the request ---- */

/* Fills plain_out with what is left of the head, then of the body. */
static size_t fill(struct direct_try *t, struct span *head, char *out)
{
    const size_t of_head = size_min(head->len, DIRECT_PLAIN_BYTES);
    size_t n = of_head;
    if (of_head)
        memcpy(out, head->ptr, of_head);
    *head = span_skip(*head, of_head);
    while (n < DIRECT_PLAIN_BYTES && t->part_at < t->request.body_part_count) {
        const struct span part = span_skip(t->request.body_parts[t->part_at], t->part_offset);
        const size_t taken = size_min(part.len, DIRECT_PLAIN_BYTES - n);
        if (taken)
            memcpy(out + n, part.ptr, taken);
        n += taken;
        t->part_offset += taken;
        if (taken == part.len) {
            t->part_at++;
            t->part_offset = 0;
        }
    }
    return n;
}

enum err direct_tls_send(struct direct_conn *conn)
{
    struct direct_try *t = conn->try;
    struct direct_lane *lane = conn->lane;
    struct span head = t->sent_head ? span_of("", 0) : buf_span(&lane->head);
    t->sent_head = true;
    while (!t->sent && !conn->writing && !conn->send_failed) {
        const size_t n = fill(t, &head, lane->plain_out);
        ERR_clear_error();
        if (n > 0 && SSL_write(conn->tls->ssl, lane->plain_out, (int)n) != (int)n) {
            buf_clear(&lane->cipher);
            ERR_clear_error();
            return ERR_CLOSED;
        }
        const bool more = t->part_at < t->request.body_part_count;
        if (head.len || (more && lane->cipher.len < CIPHER_BATCH_BYTES))
            continue;
        const enum err err = flush(conn);
        if (err)
            return err;
        if (!more && !conn->send_failed)
            direct_conn_sent(t);
    }
    return OK;
}

/* ---- the answer ---- */

/* One record's content. >0: bytes in plain_in. 0: no more now. -1: no more at all (tls->ended), or the stream is
 * broken. */
static int decrypt(struct direct_conn *conn)
{
    struct direct_tls *tls = conn->tls;
    ERR_clear_error();
    const int n = SSL_read(tls->ssl, conn->lane->plain_in, (int)DIRECT_PLAIN_BYTES);
    const int what = n > 0 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, n);
    const enum err flushed = flush(conn); /* before anybody else uses the scratch */
    ERR_clear_error();
    if (n > 0)
        return n;
    tls->ended |= what == SSL_ERROR_ZERO_RETURN;
    return what == SSL_ERROR_WANT_READ && !flushed ? 0 : -1;
}

/* The answer is complete: nothing may follow it but what TLS says to itself. */
static void complete(struct direct_conn *conn, struct span rest)
{
    const bool reusable = http1_head(&conn->parser)->keep_alive && rest.len == 0 && decrypt(conn) == 0;
    direct_try_complete(conn->try, reusable);
}

/* Keeps what a pause leaves: `rest` of plain_in, and the records behind it. */
static void hold(struct direct_conn *conn, struct span rest, bool in_is_held)
{
    struct direct_tls *tls = conn->tls;
    direct_conn_pause(conn); /* the pause may be older than the connection */
    enum err err = buf_append(&tls->plain, rest);
    if (in_is_held)
        buf_consume(&conn->held, conn->held.len - tls->ends.in.len);
    else if (!err)
        err = buf_append(&conn->held, tls->ends.in);
    if (err)
        direct_try_finish(conn->try, ERR_NOMEM, "out of memory");
}

/* True: all was used and the try wants more. */
static bool run(struct direct_conn *conn, bool in_is_held)
{
    int n;
    while ((n = decrypt(conn)) > 0) {
        struct span bytes = span_of(conn->lane->plain_in, (size_t)n);
        switch (direct_conn_parse(conn, &bytes)) {
        case DIRECT_MORE:
            break;
        case DIRECT_PAUSED:
            hold(conn, bytes, in_is_held);
            return false;
        case DIRECT_ENDED:
            complete(conn, bytes);
            return false;
        case DIRECT_GONE:
            return false;
        }
    }
    if (n < 0)
        direct_conn_ended(conn, conn->tls->ended ? UV_EOF : UV_EPROTO);
    return n == 0;
}

void direct_tls_take_rest(struct direct_conn *conn)
{
    (void)run(conn, false);
}

void direct_tls_take(struct direct_conn *conn, struct span bytes)
{
    conn->tls->ends.in = bytes;
    (void)run(conn, false);
}

void direct_tls_resume(struct direct_conn *conn)
{
    struct direct_tls *tls = conn->tls;
    struct span rest = buf_span(&tls->plain);
    tls->ends.in = buf_span(&conn->held);
    switch (direct_conn_parse(conn, &rest)) {
    case DIRECT_PAUSED:
        buf_consume(&tls->plain, tls->plain.len - rest.len);
        return;
    case DIRECT_ENDED:
        complete(conn, rest);
        return;
    case DIRECT_GONE:
        return;
    case DIRECT_MORE:
        break;
    }
    buf_release(&tls->plain);
    if (!run(conn, true))
        return;
    buf_release(&conn->held);
    if (direct_conn_read(conn) != 0)
        direct_try_finish(conn->try, ERR_IO, "the connection could not be read");
}

bool direct_tls_take_idle(struct direct_conn *conn, struct span bytes)
{
    conn->tls->ends.in = bytes;
    return decrypt(conn) == 0;
}

bool direct_tls_ended(const struct direct_conn *conn)
{
    return conn->tls->ended;
}

size_t direct_tls_buffered(const struct direct_conn *conn)
{
    return conn->tls ? conn->tls->plain.cap + conn->tls->backlog.cap : 0;
}
