/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/ssl3.h>
#include "dataplane/worker/stream_tls.h"
#include "common/fault.h"
#include "common/log.h"
#include "dataplane/worker/tls_bio.h"

#define RECORD_BYTES       16384u      /* RFC 8446 section 5.1: no record holds more */
#define CIPHER_BATCH_BYTES (48u << 10) /* of a long body: written at once */
#define DEMANDS_MAX                                                                                                    \
    64u /* of one client, for new keys or handshakes: each costs us more than the client, and is answered whether it     \
           reads or not. Keys last 2^24 records (RFC 8446 section 5.5) */

struct stream_tls {
    SSL *ssl;
    struct tls_bio ends;
    unsigned demands;
    bool open; /* the handshake is done */
};

static enum err flush(struct stream *stream)
{
    struct buf *cipher = &stream->core->cipher;
    const struct span all = buf_span(cipher);
    const enum err err = all.len ? outbox_write(&stream->outbox, &all, 1) : OK;
    buf_clear(cipher);
    return err;
}

/* In TLS 1.3 a client may ask for new keys as often as it likes, and OpenSSL obeys; in 1.2 it may ask for a new
 * handshake, and OpenSSL says no each time. After too many the rest of what came is not looked at. */
static void on_message(int sent, int version, int type, const void *bytes, size_t count, SSL *ssl, void *user)
{
    struct stream_tls *tls = user;
    const unsigned char *message = bytes;
    (void)version;
    (void)ssl;
    const bool update = !sent && type == SSL3_RT_HANDSHAKE && count > 0 && message[0] == SSL3_MT_KEY_UPDATE;
    const bool refusal = sent && type == SSL3_RT_ALERT && count > 1 && message[1] == SSL_AD_NO_RENEGOTIATION;
    if ((update || refusal) && ++tls->demands > DEMANDS_MAX)
        tls->ends.in = SPAN("");
}

enum err stream_tls_open(struct stream *stream)
{
    struct core *core = stream->core;
    if (!core->plain)
        core->plain = fault_malloc(CORE_READ_BYTES);
    struct stream_tls *tls = core->plain ? fault_calloc(1, sizeof(*tls)) : NULL;
    if (!tls)
        return ERR_NOMEM;
    stream->tls = tls;
    tls->ends.out = &core->cipher;
    tls->ssl = fault_hit(FAULT_ALLOC) ? NULL : SSL_new(stream->setup->tls);
    BIO *bio = tls->ssl ? tls_bio_new(&tls->ends) : NULL;
    if (!bio)
        return ERR_NOMEM;
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_accept_state(tls->ssl);
    SSL_set_msg_callback(tls->ssl, on_message);
    SSL_set_msg_callback_arg(tls->ssl, tls);
    return OK;
}

void stream_tls_free(struct stream_tls *tls)
{
    if (!tls)
        return;
    if (tls->ssl) {
        /* Else OpenSSL takes the session for a broken one. */
        SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        SSL_free(tls->ssl);
    }
    free(tls);
}

/* ---- in ---- */

static enum err tell_facts(struct stream *stream)
{
    const unsigned char *name = NULL;
    unsigned size = 0;
    SSL_get0_alpn_selected(stream->tls->ssl, &name, &size);
    stream->facts.tls = true;
    stream->facts.protocol = span_eq(span_of((const char *)name, size), SPAN("h2")) ? STREAM_HTTP2 : STREAM_HTTP1;
    return listener_setup_team(stream->setup, SSL_get0_peer_certificate(stream->tls->ssl), &stream->facts.team,
                               &stream->facts.certificate);
}

static const char *failure_text(const SSL *ssl)
{
    const long verdict = SSL_get_verify_result(ssl);
    const char *text =
        verdict != X509_V_OK ? X509_verify_cert_error_string(verdict) : ERR_reason_error_string(ERR_peek_error());
    return text ? text : "unexpected bytes";
}

static enum err handshake(struct stream *stream)
{
    struct stream_tls *tls = stream->tls;
    const int done = SSL_do_handshake(tls->ssl);
    const int what = done == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, done);
    const enum err flushed = flush(stream); /* an alert, too */
    if (what == SSL_ERROR_WANT_READ)
        return flushed ? flushed : ERR_AGAIN;
    if (what != SSL_ERROR_NONE) {
        log_debug("tls.refused", LOG_STR("client", stream->facts.client), LOG_STR("why", failure_text(tls->ssl)));
        return ERR_DENIED;
    }
    if (flushed)
        return flushed;
    const enum err told = tell_facts(stream);
    if (told) {
        log_warn("tls.refused", LOG_STR("client", stream->facts.client),
                 LOG_STR("why", "its certificate cannot be read"));
        return told;
    }
    tls->open = true;
    stream_opened_now(stream);
    return OK;
}

/* Fills the worker's plain buffer. OK: there may be more; ERR_AGAIN: no more now. */
static enum err decrypt(struct stream *stream, size_t *ret_count)
{
    struct stream_tls *tls = stream->tls;
    size_t count = 0;
    int what = SSL_ERROR_NONE;
    ERR_clear_error(); /* of whatever ran since the last look: SSL_get_error would take it for this connection's */
    while (count < CORE_READ_BYTES && what == SSL_ERROR_NONE) {
        const int n = SSL_read(tls->ssl, stream->core->plain + count, (int)(CORE_READ_BYTES - count));
        if (n > 0)
            count += (size_t)n;
        else
            what = SSL_get_error(tls->ssl, n);
    }
    *ret_count = count;
    if (tls->demands > DEMANDS_MAX) {
        buf_clear(&stream->core->cipher); /* the next to use it is another client */
        return ERR_TOO_MANY;
    }
    const enum err flushed = flush(stream);
    if (flushed)
        return flushed;
    if (what == SSL_ERROR_NONE)
        return OK;
    if (what == SSL_ERROR_WANT_READ)
        return ERR_AGAIN;
    return what == SSL_ERROR_ZERO_RETURN ? ERR_CLOSED : ERR_SYNTAX;
}

enum err stream_tls_take(struct stream *stream, struct span bytes)
{
    struct stream_tls *tls = stream->tls;
    size_t count = 0;
    tls->ends.in = bytes;
    ERR_clear_error();
    enum err err = tls->open ? OK : handshake(stream);
    while (err == OK && !stream->closing) {
        err = decrypt(stream, &count);
        if (count > 0 && err != ERR_TOO_MANY)
            stream_give(stream, span_of(stream->core->plain, count));
    }
    ERR_clear_error();
    return err == ERR_AGAIN ? OK : err;
}

/* ---- out ---- */

/* Whole records, whatever the parts' sizes: a head, a chunk and its frame are one. */
static size_t fill(struct span *parts, unsigned count, unsigned *at, char *out)
{
    size_t n = 0;
    while (*at < count && n < RECORD_BYTES) {
        const size_t taken = size_min(parts[*at].len, RECORD_BYTES - n);
        if (taken)
            memcpy(out + n, parts[*at].ptr, taken);
        n += taken;
        parts[*at] = span_skip(parts[*at], taken);
        if (parts[*at].len == 0)
            ++*at;
    }
    return n;
}

enum err stream_tls_write(struct stream *stream, const struct span *parts, unsigned count)
{
    struct span rest[OUTBOX_PARTS_MAX];
    char record[RECORD_BYTES]; /* not core->plain: what is being answered may stand there */
    unsigned at = 0;
    REQUIRE(count <= OUTBOX_PARTS_MAX);
    memcpy(rest, parts, count * sizeof(*parts));
    ERR_clear_error();
    while (at < count) {
        const size_t n = fill(rest, count, &at, record);
        if (n > 0 && SSL_write(stream->tls->ssl, record, (int)n) != (int)n) {
            buf_clear(&stream->core->cipher);
            ERR_clear_error();
            return ERR_CLOSED;
        }
        if (at < count && stream->core->cipher.len < CIPHER_BATCH_BYTES)
            continue;
        const enum err err = flush(stream);
        if (err)
            return err;
    }
    return OK;
}

enum err stream_tls_shutdown(struct stream *stream)
{
    if (!stream->tls->open)
        return OK;
    ERR_clear_error();
    (void)SSL_shutdown(stream->tls->ssl); /* 0: said; the client's answer is not awaited */
    ERR_clear_error();
    return flush(stream);
}
