/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include "dataplane/worker/setup_tickets.h"
#include "common/buf.h"
#include "common/digest.h"
#include "proto/board.h"

#define RULES_BYTES (16u << 20) /* what a session's rules are told by, before it is hashed: files are smaller */

/* ---- under which rules ---- */

static enum err append_text(struct buf *rules, const char *text)
{
    const struct span all = span_of(text ? text : "", (text ? strlen(text) : 0) + (text ? 1 : 0));
    return buf_append(rules, all); /* with its NUL: no two lists read alike */
}

/* Those that were loaded, not what the file says by now. */
static enum err append_authorities(struct buf *rules, const SSL_CTX *ctx)
{
    const STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    enum err err = OK;
    for (int i = 0; i < sk_X509_OBJECT_num(objects) && err == OK; i++) {
        const X509 *certificate = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned size = 0;
        if (!certificate)
            continue;
        if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1)
            return ERR_NOMEM;
        err = buf_append(rules, span_of((const char *)digest, size));
    }
    return err;
}

static enum err append_rules(struct buf *rules, const struct listener_setup *setup,
                             const struct listener_config *config)
{
    const char mode[] = { (char)('0' + (int)config->client_certificates), '\0' };
    enum err err = append_text(rules, config->address ? config->address : "");
    if (err == OK)
        err = append_text(rules, mode);
    for (unsigned i = 0; i < setup->team_count && err == OK; i++) {
        err = append_text(rules, setup->teams[i].name);
        if (err == OK)
            err = append_text(rules, setup->teams[i].team);
    }
    if (err == OK)
        err = append_text(rules, "");
    return err ? err : append_authorities(rules, setup->tls);
}

/* ---- keys ---- */

static int begin(const struct board_ticket_key *key, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                 int sealing)
{
    char digest[] = "SHA256";
    uint8_t mac_key[sizeof(key->mac)];
    memcpy(mac_key, key->mac, sizeof(mac_key));
    const OSSL_PARAM params[] = { OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, mac_key, sizeof(mac_key)),
                                  OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                  OSSL_PARAM_construct_end() };
    const int done = EVP_MAC_CTX_set_params(mac, params) == 1 &&
                     EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->cipher, iv, sealing) == 1;
    OPENSSL_cleanse(mac_key, sizeof(mac_key));
    return done;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): -1 failed, 0 no such key, 1 fine, 2 fine but give a new ticket. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int sealing)
{
    const struct listener_setup *setup = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    struct board_ticket_key key;
    int verdict = 0;
    for (unsigned age = 0; age < (sealing ? 1 : BOARD_TICKET_KEYS) && verdict == 0; age++) {
        if (!board_ticket_key(setup->board, age, &key))
            break;
        if (sealing) {
            memcpy(name, key.name, sizeof(key.name));
            verdict =
                RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) == 1 && begin(&key, iv, cipher, mac, 1)
                    ? 1
                    : -1;
        } else if (memcmp(name, key.name, sizeof(key.name)) == 0) {
            verdict = !begin(&key, iv, cipher, mac, 0) ? -1 : age == 0 ? 1 : 2;
        }
    }
    OPENSSL_cleanse(&key, sizeof(key));
    return verdict;
}

enum err setup_tickets_share(struct listener_setup *setup, const struct listener_config *config,
                             const struct board *board)
{
    struct buf rules = BUF_INIT(RULES_BYTES);
    const enum err err = append_rules(&rules, setup, config);
    const struct sha256 hash = sha256_of(buf_span(&rules));
    buf_release(&rules);
    _Static_assert(sizeof(hash.bytes) <= SSL_MAX_SID_CTX_LENGTH, "it tells rules apart in full");
    if (err || SSL_CTX_set_session_id_context(setup->tls, hash.bytes, sizeof(hash.bytes)) != 1)
        return ERR_NOMEM;
    setup->board = board;
    if (board && (SSL_CTX_set_app_data(setup->tls, setup) != 1 ||
                  SSL_CTX_set_tlsext_ticket_key_evp_cb(setup->tls, on_ticket) != 1))
        return ERR_NOMEM;
    return OK;
}
